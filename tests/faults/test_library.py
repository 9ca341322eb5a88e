"""Each kind of fault strikes where it was told to, below the root alone, and nowhere before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.library import Point, compiled, compiler, loaded_first

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import json, os, sys
from pathlib import Path
from tests.faults.library import Calls, Point
root, name, number, kind = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
calls, errors = Calls(), []
calls.arm(root, os.open(root.parent / "points", os.O_WRONLY | os.O_CREAT), Point(name, number), kind)
for place in (root.parent / "outside", root / "first", root / "second-12345"):
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"12345678")
        os.close(descriptor)
    except OSError as error:
        errors.append([place.name, error.errno])
print(json.dumps([calls.disarm(), errors]))
"""
NO_SPACE, BROKEN = 28, 5


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if compiler() is None:
        pytest.skip("no compiler of C")
    return compiled(tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize(
    ("name", "number", "kind", "errors", "files"),
    [
        ("write first", 0, "before", None, {"first": b""}),
        ("write first", 0, "after", None, {"first": b"12345678"}),
        ("write first", 0, "torn", None, {"first": b"1234"}),
        ("write first", 0, "broken", [["first", BROKEN]], {"first": b"", "second-12345": b"12345678"}),
        ("write first", 0, "full", [["first", NO_SPACE], ["second-12345", NO_SPACE]], {"first": b""}),
        ("open second-#", 0, "before", None, {"first": b"12345678"}),
        ("write first", 1, "before", [], {"first": b"12345678", "second-12345": b"12345678"}),
    ],
)
def test_a_fault_strikes_at_its_point(library, tmp_path, name, number, kind, errors, files):
    root = tmp_path / "root"
    root.mkdir()
    words = [sys.executable, "-c", WRITER, str(root), name, str(number), kind]
    environment = os.environ | loaded_first(library) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if errors is None:
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        assert json.loads(done.stdout) == [bool(errors), errors]
    assert {path.name: path.read_bytes() for path in root.iterdir()} == files
    assert (tmp_path / "outside").read_bytes() == b"12345678"
    points = (tmp_path / "points").read_text().splitlines()
    assert points[:2] == ["open first\t0", "write first\t0"]


def test_only_a_write_may_be_torn():
    assert "torn" in Point("write registry.db-wal", 3).kinds
    assert "torn" not in Point("rename store/#", 0).kinds
