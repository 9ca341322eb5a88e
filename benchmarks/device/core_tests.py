"""The core test files on a device, with products in full float32: which pass, which fail and why.

Tests marked `cpu_bits` ask for equal bits, which a CPU alone promises. They are listed apart: passed all the same, or
failed as expected. Tests that need the package of MiniLM say so in their error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.device.part import Part
from benchmarks.results import ROOT

FILES = (
    "tests/backbone/test_goldens.py",
    "tests/backbone/test_encoder.py",
    "tests/backbone/test_blocked_attention.py",
    "tests/backbone/test_families.py",
    "tests/backbone/test_precisions.py",
    "tests/backbone/test_products.py",
    "tests/adapters/test_methods.py",
    "tests/adapters/test_heads.py",
    "tests/trainers/fitting/test_step.py",
    "tests/trainers/fitting/test_stages.py",
    "tests/trainers/fitting/test_cached_states.py",
)
LINE = re.compile(r"^(?:\[gw\d+\] \[ *\d+%\] )?(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (tests/\S+::.*?)(?: - (.*))?$")
ALONE = re.compile(r"^(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: +\(.*\))?(?: +\[ *\d+%\])?$")


def outcomes(text: str) -> dict[str, str]:
    """Returns the outcome of every test that ended, by its name, from the lines of `pytest -v`."""
    ended: dict[str, str] = {}
    for line in text.splitlines():
        if match := LINE.match(line):
            ended[match[2].strip()] = match[1]
        elif match := ALONE.match(line):
            ended[match[1].strip()] = match[2]
    return ended


def reasons(text: str) -> dict[str, str]:
    """Returns what pytest's summary says of every test that failed."""
    matches = (LINE.match(line) for line in text.splitlines())
    return {
        match[2].strip(): match[3][:300] for match in matches if match and match[3] and match[1] in ("FAILED", "ERROR")
    }


def main() -> None:
    part = Part("tests", __doc__.split("\n")[0])
    log = Path(tempfile.mkdtemp()) / "pytest.txt"
    files = FILES[1:3] if part.tiny else FILES
    workers = ["-n", "2" if part.tiny else str(min(12, os.cpu_count() or 1)), "--dist", "worksteal"]
    options = [
        "-v",
        "--tb=line",
        "-p",
        "no:benchmark",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib -rfE",
    ]
    environment = {
        "JAX_PLATFORMS": "cpu" if part.tiny else "cuda,cpu",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "COLUMNS": "500",  # else the summary has no reasons
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    started = time.perf_counter()
    with log.open("w") as file:
        command = [sys.executable, "-m", "pytest", *workers, *options, *files]
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | environment
        )
        while process.poll() is None:
            time.sleep(5)
            report(part, log, time.perf_counter() - started)
    report(part, log, time.perf_counter() - started, process.returncode)
    print(log.read_text(errors="replace")[-20_000:])


def report(part: Part, log: Path, seconds: float, status: int | None = None) -> None:
    """Writes what has ended by now."""
    text = log.read_text(errors="replace")
    ended = outcomes(text)
    listed = {kind: sorted(n for n, o in ended.items() if o == kind) for kind in ("FAILED", "ERROR", "XFAIL", "XPASS")}
    part.content |= {
        "files": list(FILES),
        "status": status,
        "seconds": seconds,
        "counts": dict(Counter(ended.values())),
        "listed": listed,
        "reasons": reasons(text),
    }
    part.add(last_lines=text.splitlines()[-3:])


if __name__ == "__main__":
    main()
