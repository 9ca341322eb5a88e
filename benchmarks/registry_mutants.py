"""Wrong changes of the registry, each of which its state machine has to find (`tests/mutants/machine.py`).

    python -m benchmarks.registry_mutants [--only N ...]

Each change is applied to a copy of the tree, and the machine of `tests/registry/machine.py` is driven there on SQLite
with its default number of operations, or until it differs from the model. First it is driven on the tree as it is.
Status 1 if a change was not found. Writes `results/registry_mutants.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backbone.storage import load_backbone
from benchmarks.results import parsed, write
from tests.grafts import make
from tests.mutants.__main__ import Copy
from tests.mutants.machine import MACHINE
from tests.registry.machine import EXAMPLES, STEPS, drive
from tests.tiny import make_tiny_backbone

GRAFTS = 5


@dataclass(frozen=True)
class Driven:
    """The machine on one tree."""

    operations: int  # operations until it differed from the model, or all
    difference: str  # first line of the error; empty where nothing differed


@dataclass(frozen=True)
class Finding:
    """What the machine said of a wrong change."""

    number: int  # place in the list, from 1
    file: str
    why: str
    operations: int
    difference: str
    seconds: float


def driven(grafts: Sequence[Path]) -> Driven:
    """Drives the machine in this process until it differs from the model."""
    counts: Counter[str] = Counter()
    try:
        drive(None, list(grafts), counts=counts, shortest=False)
    except Exception as error:  # noqa: BLE001 - a wrong registry may raise anything
        return Driven(counts["operations"], f"{type(error).__name__}: {error}".splitlines()[0][:200])
    return Driven(counts["operations"], "")


def in_copy(copy: Copy, grafts: Path) -> Driven:
    """Drives the machine in a process that runs the copy of the tree."""
    done = copy.run([sys.executable, "-m", "benchmarks.registry_mutants", "--drive", str(grafts)])
    if done.returncode:
        raise RuntimeError(done.stdout)
    return Driven(**json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=int, action="append", metavar="N", help="this change alone, by its number")
    parser.add_argument("--drive", type=Path, metavar="FOLDER", help="drive the machine with the grafts of a folder")
    if (drive_with := parser.parse_args(arguments).drive) is not None:
        print(json.dumps(asdict(driven(sorted(drive_with.iterdir())))))
        return 0
    options, provenance = parsed(parser, arguments)
    findings = []
    with tempfile.TemporaryDirectory(prefix="topgraft-mutants-") as place:
        tiny = load_backbone(make_tiny_backbone(Path(place) / "backbone"))
        for number in range(GRAFTS):
            make(Path(place) / "grafts" / str(number), tiny, seed=number)
        copy = Copy(Path(place) / "tree")
        plain = in_copy(copy, Path(place) / "grafts")
        if plain.difference:
            print(f"the registry as it is differs from the model: {plain.difference}", file=sys.stderr)
            return 2
        for number, mutant in enumerate(MACHINE, 1):
            if options.only and number not in options.only:
                continue
            started = time.monotonic()
            with copy.applied(mutant):
                result = in_copy(copy, Path(place) / "grafts")
            seconds = round(time.monotonic() - started, 1)
            findings.append(Finding(number, mutant.file, mutant.why, result.operations, result.difference, seconds))
            print(f"{number:3d} {result.operations:5d} operations  {mutant.why}: {result.difference}", flush=True)
    missed = [finding for finding in findings if not finding.difference]
    content = {
        "default": {"examples": EXAMPLES, "steps": STEPS},
        "without_a_change": asdict(plain),
        "found": len(findings) - len(missed),
        "missed": len(missed),
        "changes": [asdict(finding) for finding in findings],
    }
    print(write("registry_mutants", content, provenance))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
