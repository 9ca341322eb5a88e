"""Result files with their provenance: what was measured, where, when, on which code, with which versions.

A `NAME.json` is one process's work, and its head is the provenance of every raw run in it. A `NAME.jsonl` gathers raw
runs of several processes, each line with a provenance of its own; `RawRuns` resumes those of this machine and code
alone, so that no sum mixes two of either. Results without provenance lie in `results/former/`, and no figure of a
document rests on them (`tests/test_benchmark_figures.py`).

A copy of a checkout without its repository is told its commit by `TOPGRAFT_SOURCE`:

    python -m benchmarks.results        # in the checkout; prints the commit and the hash of the code

The hash is computed again in the copy, which is refused where it differs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapters.machine import machine_record
from metering.machine import Machine, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PRODUCTION = ("adapters", "backbone", "metering", "registry", "serving", "trainers")  # folders; their files are code
PACKAGES = (
    *("topgraft", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "tokenizers"),
    *("torch", "transformers", "peft", "scikit-learn", "sentence-transformers", "onnxruntime", "openvino"),
)
PLACES = ("peers", "data", "out")  # options that hold paths of this machine, which say nothing to another
FLAGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # beside every JAX_...
SOURCE = "TOPGRAFT_SOURCE"  # variable that holds what `python -m benchmarks.results` prints
LISTS = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"


@dataclass(frozen=True)
class Provenance:
    """The origin of raw runs."""

    machine: Machine
    load: float  # load average of the minute before the first run
    code: str  # sha256 of the production folders and constraints.txt
    commit: str  # of a tree without changes
    started: str  # date and time, UTC
    versions: Mapping[str, str]  # of Python and the packages on our side
    peers: Mapping[str, str]  # of those on the other side; empty without one
    flags: Mapping[str, str]  # variables of the environment that change a compiler or its threads
    known_answers: str  # verdict on the compiler (`topgraft machine`)
    settings: Mapping[str, Any]  # options of the script that differ from their defaults
    seed: int | None  # random seed; None where the runs say their own, or need none


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Provenance]:
    """Parses the command line of a benchmark, and returns the options and the provenance of what follows.

    An option `peers` names the Python of the other side. Ends the process with status 2 where the files differ from
    the commit: nobody could measure that again.
    """
    options = parser.parse_args(arguments)
    if changes := changed_files():
        parser.error(f"these files differ from the commit: {', '.join(changes)}; commit them, or measure in a clone")
    values = {name: value for name, value in vars(options).items() if value != parser.get_default(name)}
    peers = getattr(options, "peers", None)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    provenance = Provenance(
        machine=machine(),
        load=round(os.getloadavg()[0], 2),
        code=code(),
        commit=commit(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        peers=versions_of(peers) if peers else {},
        flags={name: value for name, value in sorted(os.environ.items()) if name in FLAGS or name.startswith("JAX_")},
        known_answers=machine_record().verdict,
        settings={name: value for name, value in settings.items() if name not in PLACES},
        seed=getattr(options, "seed", None),
    )
    return options, provenance


def changed_files() -> list[str]:
    """Lists the files, results aside, that differ from the commit, and those of production that it does not hold.

    Of a copy without its repository this is the source that it was told, if its code is another.
    """
    if source := _source():
        return [] if source[1] == code() else [f"{SOURCE}, which says {source[1][:19]}..., from {code()[:19]}..."]
    lines = _git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results").splitlines()
    return [line[3:] for line in lines] + _git("ls-files", "-o", "--exclude-standard", "--", *PRODUCTION).splitlines()


def commit() -> str:
    """Returns the commit of the checkout, or the one that its copy was told."""
    source = _source()
    return source[0] if source else _git("rev-parse", "HEAD").strip()


@functools.cache
def code() -> str:
    """Returns the hash of the production folders and of `constraints.txt`: what may change a figure."""
    state = hashlib.sha256()
    for name in _production():
        content = (ROOT / name).read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"sha256:{state.hexdigest()}"


def _production() -> list[str]:
    """Lists the files that `code` hashes, in the order of git; a copy of a checkout holds no others but bytecode."""
    if not _source():
        return _git("ls-files", "--", *PRODUCTION, "topgraft.py", "constraints.txt").splitlines()
    files = [path for folder in PRODUCTION for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    return sorted([*names, "topgraft.py", "constraints.txt"], key=str.encode)


def _source() -> list[str]:
    """Returns the commit and the hash of the code that a copy was told; empty where git is to be asked."""
    return os.environ.get(SOURCE, "").split()[:2]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages on which results depend."""
    known = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def versions_of(python: str) -> dict[str, str]:
    """Returns the same of another environment, by its Python."""
    listed = json.loads(subprocess.run([python, "-c", LISTS], capture_output=True, text=True, check=True).stdout)
    says = subprocess.run([python, "-c", "import sys; print(sys.version.split()[0])"], capture_output=True, text=True)
    return {"python": says.stdout.strip()} | {name: listed[name] for name in PACKAGES if name in listed}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the smallest and the largest of some values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": len(values)}


def write(name: str, content: Mapping[str, Any], provenance: Provenance, folder: Path | None = None) -> Path:
    """Writes `NAME.json` in `folder`, by default `results`, with the provenance of its runs, and returns the file."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    head = {"benchmark": name, "provenance": asdict(provenance)}
    path.write_text(json.dumps(head | dict(content), indent=1) + "\n")
    return path


class RawRuns:
    """The raw runs of `results/NAME.jsonl`, one a line. Those of this machine and code are not made again."""

    def __init__(self, name: str, key: Sequence[str], provenance: Provenance):
        self.path, self.key, self.provenance = RESULTS / f"{name}.jsonl", tuple(key), provenance
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            run = json.loads(line)
            if same_origin(run["provenance"], asdict(provenance)):
                self.done[self.place(run)] = run

    def place(self, run: Mapping[str, Any]) -> tuple[Any, ...]:
        """Returns what tells a run from the others."""
        return tuple(run[name] for name in self.key)

    def add(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Appends a run with its provenance, and returns the line; a field `seed` is that of the run."""
        origin = replace(self.provenance, seed=run.get("seed", self.provenance.seed))
        line = {**run, "provenance": asdict(origin)}
        RESULTS.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.done[self.place(run)] = line
        return line


def same_origin(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Returns whether two provenances are of one machine and one code, so that their figures may be summed."""
    values = [json.loads(json.dumps((one["machine"], one["code"]))) for one in (first, second)]
    return bool(values[0] == values[1])


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(commit(), code())
