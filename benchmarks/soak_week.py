"""A week of twenty tasks: 168 runs of `retrain --all`, and everything that befalls machines, while a server answers.

    python -m benchmarks.soak_week [--database sqlite postgresql] [--hours 168] [--folder FOLDER] [--fresh]

Each hour two of the twenty tasks have new rows, on a tiny trunk. Each of the twenty-five corruptions and of the thirty
harmless changes of `tests/trainers/retrain/corruptions.py` comes in some hour, the corruptions at 100 and 20 % of the
new rows. The trunk is replaced, the disk is full, the mount of the store is empty, a replica that lacks three hours
takes over, runs and servers are killed, servers are replaced under load, the database ends, and the clock jumps: all
processes share a clock that a library before libc sets, so that an hour passes in seconds. Two clients ask all week.

After each hour: what is live is what should be; each answer came from a version that was live in that hour, and says
what that version says when it is loaded alone; every request was answered, but where docs/serving.md says otherwise.
At the end: the log is whole and tells each promotion, and after `gc`, a month later, nothing is left that no version
names. Status 1 if anything was violated.

The folder keeps the week; a later call goes on with the next hour, and leaves out a database whose week is over. Writes
`results/soak_week.json`. The PostgreSQL stands behind a PgBouncer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Provenance, parsed, same_origin, write
from benchmarks.week.clock import Clock
from benchmarks.week.ending import violations_at_last
from benchmarks.week.hours import Week
from benchmarks.week.places import database
from benchmarks.week.volume import Volume

DATABASES = ("sqlite", "postgresql")


def folder_of(options: argparse.Namespace, kind: str, provenance: Provenance) -> Path:
    """Returns the folder of one database's week; what another code or a shorter week left there is removed."""
    folder = Path(options.folder) / kind
    known = folder / "origin.json"
    origin = {"provenance": asdict(provenance), "hours": options.hours}
    stored = json.loads(known.read_text()) if known.exists() else None
    same = stored is not None and stored["hours"] == options.hours
    if options.fresh or stored is None or not (same and same_origin(stored["provenance"], origin["provenance"])):
        Volume(folder / "volume").unmount() if folder.exists() else None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for place in (folder, folder.parent):
            place.chmod(0o755)  # PostgreSQL is another user where this one is root
        known.write_text(json.dumps(origin))
    return folder


def week(folder: Path, kind: str, hours: int) -> dict[str, Any]:
    """Lives through the hours that are left on one database, and returns what became of the week."""
    clock = Clock(folder)
    with database(kind, folder, clock) as place:
        lived = Week(folder, clock, place, hours)
        with lived.serving():
            while lived.hour < hours:
                print(f"{kind} {json.dumps(lived.next())}", flush=True)
        if lived.record["last"] is None:
            lived.record["last"] = violations_at_last(lived)
            lived.save()
    return summary(lived.record)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the counts of a week, and its hours."""
    hours = record["hours"]
    statuses: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for hour in hours:
        statuses.update(hour["statuses"])
        changes.update(f"{change['kind']} {change['result']}" for change in hour["changes"])
    return {
        "hours": len(hours),
        "minutes": round(sum(hour["seconds"] for hour in hours) / 60, 1),
        "events": dict(Counter(hour["event"] for hour in hours if hour["event"])),
        "changes": dict(changes),
        "promotions": sum(hour["promotions"] for hour in hours),
        "requests": dict(statuses),
        "violations": [text for hour in hours for text in hour["violations"]] + record["last"]["violations"],
        "last": record["last"],
        "log": hours,
    }


def weeks_of(name: str, provenance: Provenance, hours: int) -> dict[str, Any]:
    """Returns the weeks of this code that the result file holds, by database."""
    file = RESULTS / f"{name}.json"
    stored = json.loads(file.read_text()) if file.exists() else None
    if stored is None or not same_origin(stored["provenance"], asdict(provenance)):
        return {}
    return {kind: one for kind, one in stored["databases"].items() if one["hours"] == hours}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--database", nargs="*", default=list(DATABASES), choices=DATABASES)
    parser.add_argument("--hours", type=int, default=168)
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "topgraft-week"), help="keeps the week")
    parser.add_argument("--fresh", action="store_true", help="forget the hours that were lived")
    parser.add_argument("--name", default="soak_week", help="of the result file")
    options, provenance = parsed(parser, arguments)
    started = time.monotonic()
    over = {} if options.fresh else weeks_of(options.name, provenance, options.hours)
    wrong = [text for one in over.values() for text in one["violations"]]
    for kind in (kind for kind in options.database if kind not in over):
        folder = folder_of(options, kind, provenance)
        one = week(folder, kind, options.hours)
        wrong += one["violations"]
        done = weeks_of(options.name, provenance, options.hours)  # two weeks may be lived at once
        print(write(options.name, {"databases": {**done, kind: one}}, provenance))
        Volume(folder / "volume").unmount()
        shutil.rmtree(folder)
    print("\n".join(wrong) or f"no violation in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
