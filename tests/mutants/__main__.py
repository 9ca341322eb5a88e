"""Applies each mutant to a copy of the tree, runs the test that is meant to fail, and says what became of it.

    python -m tests.mutants [--only N] [--resume]

First each named test has to pass on the tree as it is. Then each mutant is applied alone. It is killed if its test
fails, and survives if the test passes. A mutant whose text is no longer in its file once is an error that names it.
`benchmarks/results/mutants.json` is written after each mutant. With `--resume` a mutant that was killed is not run
again while its file and its test are the same. Status 1 if one survived, 2 for an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.results import RESULTS, Provenance, parsed, write
from tests.mutants import MUTANTS, Mutant
from tests.mutants.mutant import ROOT

NAME = "mutants"  # of the result file
SECONDS = 600.0  # time of one test; one that a mutant makes run longer is killed too
FAILED = 1  # status of pytest where a test failed
COPIED = ("adapters", "backbone", "benchmarks", "configs", "metering", "registry", "serving", "tests", "trainers")
LEFT_OUT = ("__pycache__", "former", "peers", "results")  # folders in these
FILES = ("topgraft.py", "pyproject.toml")


@dataclass(frozen=True)
class Fate:
    """What became of a mutant."""

    number: int  # place in the list, from 1
    file: str
    why: str
    test: str
    fate: Literal["killed", "survived"]
    seconds: float
    state: str  # hash of the mutant, its file and its test


class Copy:
    """A copy of the tree in which one file at a time is wrong."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        (folder / "programs").mkdir()  # compiled programs, kept from mutant to mutant

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command on the copy; raises TimeoutExpired where it takes too long. Stdout holds stderr too."""
        environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # a file that is changed twice in a second would be read from its old code
            "TOPGRAFT_TEST_PROGRAMS": str(self.folder / "programs"),
        }
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def status(self, test: str) -> int | None:
        """Runs a test; returns pytest's status, or None where it takes too long."""
        try:
            done = self.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test])
        except subprocess.TimeoutExpired as error:
            self.said = str(error.stdout or "")
            return None
        self.said = done.stdout
        return done.returncode

    @contextlib.contextmanager
    def applied(self, mutant: Mutant) -> Iterator[None]:
        """Has a mutant in the copy until the block ends."""
        file = self.folder / mutant.file
        text = file.read_text(encoding="utf-8")
        file.write_text(mutant.applied_to(text), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(text, encoding="utf-8")

    def fate(self, mutant: Mutant) -> Literal["killed", "survived"]:
        """Applies a mutant, runs its test and takes the mutant back; raises RuntimeError where no test ran."""
        with self.applied(mutant):
            status = self.status(mutant.test)
        if status == 0:
            return "survived"
        if status not in (FAILED, None):
            raise RuntimeError(f"{mutant.file}: {mutant.why}: pytest ended with {status}, no test ran\n{self.said}")
        return "killed"


def known_fates(states: Mapping[str, int]) -> dict[int, Fate]:
    """Returns what the result file says of mutants that are as they were, by their number now; `states` gives it."""
    file = RESULTS / f"{NAME}.json"
    if not file.exists():
        return {}
    entries = [entry for entry in json.loads(file.read_text())["mutants"] if entry["state"] in states]
    return {states[entry["state"]]: Fate(**{**entry, "number": states[entry["state"]]}) for entry in entries}


def save(fates: Sequence[Fate], provenance: Provenance) -> None:
    """Writes the result file."""
    counts = {fate: sum(one.fate == fate for one in fates) for fate in ("killed", "survived")}
    write(
        NAME, {**counts, "mutants": [asdict(fate) for fate in sorted(fates, key=lambda fate: fate.number)]}, provenance
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Runs mutants of production code.")
    parser.add_argument("--only", type=int, action="append", metavar="N", help="this mutant alone, by its number")
    parser.add_argument("--resume", action="store_true", help="leave out what was killed before, and is unchanged")
    options, provenance = parsed(parser, arguments)
    states = {number: mutant.state(ROOT) for number, mutant in enumerate(MUTANTS, 1)}
    before = known_fates({state: number for number, state in states.items()})
    chosen = [number for number in states if not options.only or number in options.only]
    if options.resume:
        chosen = [number for number in chosen if number not in before or before[number].fate == "survived"]
    fates = before if options.resume or options.only else {}
    for number in chosen:  # before any of them is run
        MUTANTS[number - 1].applied_to((ROOT / MUTANTS[number - 1].file).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        tests = list(dict.fromkeys(MUTANTS[number - 1].test for number in chosen))
        print(f"{len(tests)} tests on the tree as it is", flush=True)
        for test in tests:
            if copy.status(test) != 0:
                print(f"{test}: does not pass on the tree as it is\n{copy.said}", file=sys.stderr)
                return 2
        for number in chosen:
            mutant, start = MUTANTS[number - 1], time.monotonic()
            fate = copy.fate(mutant)
            seconds = round(time.monotonic() - start, 1)
            print(f"{number:3d} {fate:8s} {seconds:6.1f} s  {mutant.file}: {mutant.why}", flush=True)
            fates[number] = Fate(number, mutant.file, mutant.why, mutant.test, fate, seconds, states[number])
            save(list(fates.values()), provenance)
    survivors = [fate for fate in fates.values() if fate.fate == "survived"]
    for fate in survivors:
        print(f"survived: {fate.number} {fate.file}: {fate.why} ({fate.test})", file=sys.stderr)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
