"""A million mutations of real files over every reader: each is refused with a reason, or read rightly.

    python -m benchmarks.soak_fuzz [--inputs 1000000] [--minutes 60] [--only READER ...] [--jobs 2] [--fresh]

Readers: each file of a graft, backbones, caches, a registry as SQLite file and as export, folders of PEFT, fine-tuned
classifiers and published backbones, rows of every format, configs, bodies of requests. Mutations change bytes, values
of JSON, headers and numbers of safetensors, cells of SQLite. Hashes are made right again, so that the content is
really read. An input is a fault if it raises anything but InputError or an error of the registry, takes five CPU
seconds or a gigabyte, hangs, or if what was read is wrong (labels, shapes, numbers that are not finite).

Each input has a number, and the number is its seed: `python -m benchmarks.fuzz.worker READER FOLDER N N+1` repeats
one. A later call on the same code goes on. Cheap readers get more inputs than those that compile. Status 1 after a
fault. Writes `results/soak_fuzz.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fuzz.worker import readers
from benchmarks.results import RESULTS, ROOT, Provenance, parsed, same_origin, write
from tests.registry.machine import MEMORY

HANGS = 180.0  # seconds in one input after which its process is killed
BEGINS = 600.0  # seconds until a process is at its first input
BATCH = 60.0  # seconds of inputs of one process, which imports and compiles once
# share of all inputs: readers that run the network or open a database are slow
SLOW = ("backbone", "PEFT folder", "classifier folder", "published backbone")
MIDDLE = ("graft manifest", "graft tensors", "graft canary", "graft exits", "graft scope", "registry file")
SHARES = dict.fromkeys(SLOW, 0.004) | dict.fromkeys(MIDDLE, 0.015)
EXAMPLES = 3  # faults of one kind and place that the result file keeps


def goals(inputs: int) -> dict[str, int]:
    """Returns the number of inputs of each reader."""
    names = list(readers())
    rest = (1 - sum(SHARES.get(name, 0.0) for name in names)) / sum(name not in SHARES for name in names)
    return {name: round(inputs * SHARES.get(name, rest)) for name in names}


class Counts:
    """What became of the inputs, by reader."""

    def __init__(self, name: str, provenance: Provenance, *, fresh: bool):
        self.name, self.provenance = name, provenance
        file = RESULTS / f"{name}.json"
        stored = json.loads(file.read_text()) if file.exists() and not fresh else None
        known = stored is not None and same_origin(stored["provenance"], asdict(provenance))
        self.readers: dict[str, dict[str, Any]] = stored["readers"] if stored and known else {}

    def of(self, reader: str) -> dict[str, Any]:
        """Returns the counts of a reader."""
        empty = {"inputs": 0, "refused": 0, "read": 0, "faults": 0, "seconds": 0.0, "kinds": {}}
        return self.readers.setdefault(reader, empty)

    def add(self, reader: str, stop: int, lines: Sequence[dict[str, Any]], seconds: float) -> None:
        """Takes the lines of a process that came up to the input `stop`."""
        counts = self.of(reader)
        for line in lines:
            if "counts" in line:
                counts["refused"] += line["counts"].get("refused", 0)
                counts["read"] += line["counts"].get("read", 0)
                continue
            counts["faults"] += 1
            kind = counts["kinds"].setdefault(f"{line['kind']} {line['where']}", {"count": 0, "examples": []})
            kind["count"] += 1
            if len(kind["examples"]) < EXAMPLES:
                kind["examples"].append({"number": line["number"], "says": line["says"]})
        counts["inputs"], counts["seconds"] = stop, round(counts["seconds"] + seconds, 1)

    def save(self) -> Path:
        """Writes the result file."""
        total = {key: sum(one[key] for one in self.readers.values()) for key in ("inputs", "refused", "read", "faults")}
        return write(self.name, {"total": total, "readers": self.readers}, self.provenance)


def batch(reader: str, start: int, stop: int, seconds: float) -> tuple[int, list[dict[str, Any]]]:
    """Reads inputs in a process, for so many seconds or up to `stop`.

    Returns the first input that was not read, and the lines about the others.
    """
    with tempfile.TemporaryDirectory(prefix="topgraft-fuzz-", dir=MEMORY) as place:
        words = [sys.executable, "-m", "benchmarks.fuzz.worker", reader, place, str(start), str(stop), str(seconds)]
        kept = {"TOPGRAFT_HOME": f"{place}/home", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | kept, cwd=ROOT)
        watch = _Watch(process, Path(place) / "number")
        watch.start()
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        status = process.wait()
        at = watch.number()
    if status == 0:
        return at + 1, lines
    if at < start:
        raise RuntimeError(f"{reader}: the process ended with {status} before its first input")
    says = f"no end after {HANGS:.0f} s" if watch.killed else f"the process ended with {status}"
    done = {"refused": at - start - sum("kind" in line for line in lines)}  # refused or read: nobody knows any more
    return at + 1, [
        *lines,
        {"counts": done},
        {"number": at, "kind": "hangs" if watch.killed else "dies", "where": reader, "says": says},
    ]


class _Watch(threading.Thread):
    """Kills a process that stays too long at one input."""

    def __init__(self, process: subprocess.Popen[str], file: Path):
        super().__init__(daemon=True)
        self._process, self._file, self.killed = process, file, False

    def number(self) -> int:
        """Returns the number of the input under way; -1 before the first."""
        content = self._file.read_bytes() if self._file.exists() else b""
        return int(struct.unpack("q", content)[0]) if len(content) == 8 else -1

    def run(self) -> None:
        since, at = time.monotonic(), -1
        while self._process.poll() is None:
            time.sleep(0.5)
            if (now := self.number()) != at:
                since, at = time.monotonic(), now
            if time.monotonic() - since > (HANGS if at >= 0 else BEGINS):
                self.killed = True
                self._process.send_signal(signal.SIGKILL)
                return


class Fuzzing:
    """Processes at work beside each other, each at another reader: the one that is furthest behind."""

    def __init__(self, counts: Counts, goals: Mapping[str, int], minutes: float):
        self._counts, self._goals, self._ends = counts, goals, time.monotonic() + 60 * minutes
        self._lock, self._at_work = threading.Lock(), set[str]()

    def run(self, jobs: int) -> None:
        """Reads inputs until the goals are reached or the time is over, with `jobs` processes."""
        with ThreadPoolExecutor(jobs) as threads:
            for done in [threads.submit(self._work) for _ in range(jobs)]:
                done.result()

    def _work(self) -> None:
        while (reader := self._next()) and (left := self._ends - time.monotonic()) > 0:
            start, started = self._counts.of(reader)["inputs"], time.monotonic()
            stop, lines = batch(reader, start, self._goals[reader], min(left, BATCH))
            with self._lock:
                self._counts.add(reader, stop, lines, time.monotonic() - started)
                self._counts.save()
                self._at_work.remove(reader)
            for line in lines:
                if "kind" in line:
                    print(reader, json.dumps(line), flush=True)

    def _next(self) -> str | None:
        """Takes the reader that is furthest behind; None where all have reached their goals, or are at work."""
        with self._lock:
            shares = {name: self._counts.of(name)["inputs"] / goal for name, goal in self._goals.items()}
            waiting = [name for name, share in shares.items() if share < 1 and name not in self._at_work]
            if not waiting:
                return None
            reader = min(waiting, key=shares.__getitem__)
            self._at_work.add(reader)
        return reader


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", action="append", default=[], metavar="READER", help="this reader alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--fresh", action="store_true", help="forget what the result file says")
    parser.add_argument("--name", default="soak_fuzz", help="of the result file")
    options, provenance = parsed(parser, arguments)
    counts = Counts(options.name, provenance, fresh=options.fresh)
    wanting = {name: goal for name, goal in goals(options.inputs).items() if not options.only or name in options.only}
    Fuzzing(counts, wanting, options.minutes).run(options.jobs)
    print(json.dumps({name: {k: v for k, v in one.items() if k != "kinds"} for name, one in counts.readers.items()}))
    print(counts.save())
    return 1 if any(one["faults"] for one in counts.readers.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
