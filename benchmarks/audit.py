"""The audit of a registry against a team's budgets: 1,000 and 10,000 versions, on SQLite and PostgreSQL.

    python -m benchmarks.audit [--versions 1000,10000] [--name audit]

The registry holds tasks of 20 versions each, whose records are as large as those of real retrainings
(`tests/registry/fleet.py`). Timed is the console command in a process of its own: start, imports, reading, judging, and
the page. The floors are 5 seconds for 1,000 versions, and 30 for 10,000.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, parsed, write
from registry.database import open_registry
from tests.registry.fleet import fill
from tests.registry.postgres import binaries, running

EACH = 20  # versions of a task
FLOORS = {1000: 5.0, 10000: 30.0}  # seconds
TURNS = 3
BUDGETS = (
    "[default]\nowner = 'all'\nfloors.accuracy = 0.1\nmax_cpu_seconds = 1e6\nmax_latency_ms = 1e3\nmax_flops = 1e18\n"
)


def audited(url: str, versions: int, folder: Path) -> dict[str, Any]:
    """Fills an empty database and times the verb, start and page included."""
    with contextlib.closing(open_registry(url)) as registry:
        fill(registry, versions // EACH, EACH, at=time.time())
    (folder / "budgets.toml").write_text(BUDGETS)
    words = ["audit", "--registry", url, "--store", str(folder / "store"), "--budgets", str(folder / "budgets.toml")]
    command = [sys.executable, "-m", "topgraft", *words, "--html", str(folder / "audit.html"), "--quiet"]
    seconds = []
    for _ in range(TURNS):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        seconds.append(round(time.perf_counter() - started, 3))
        assert f"{versions} versions" in done.stdout
    return {"seconds": seconds, "floor": FLOORS.get(versions), "page_bytes": (folder / "audit.html").stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--versions", default="1000,10000", help="versions of each registry, commas between")
    parser.add_argument("--name", default="audit", help="name of the result")
    options, provenance = parsed(parser)
    programs = binaries()
    if programs is None:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql")
    results: dict[str, Any] = {}
    with running(programs) as server, tempfile.TemporaryDirectory() as folder:
        for versions in map(int, options.versions.split(",")):
            for kind in ("sqlite", "postgresql"):
                url = server.schema() if kind == "postgresql" else f"sqlite:///{Path(folder) / str(versions)}.db"
                results[f"{kind}, {versions} versions"] = audited(url, versions, Path(folder))
    missed = [name for name, one in results.items() if one["floor"] and min(one["seconds"]) >= one["floor"]]
    print(json.dumps(results, indent=1))
    print(write(options.name, {"floors_seconds": FLOORS, "missed": missed, "audits": results}, provenance))


if __name__ == "__main__":
    main()
