"""A sample of the enumeration: a few faults of each verb that trains nothing. `make soak-faults` runs all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.library import compiled, compiler, loaded_first
from tests.faults.world import World

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = (
    "publish the first version",
    "promote",
    "roll back",
    "import a registry",
    "upgrade a registry",
    "gc",
    "export a registry",
    "fill a cache",
)
EACH = 2  # faults of a scenario


@pytest.mark.skipif(compiler() is None, reason="no compiler of C")
def test_a_fault_leaves_the_state_before_or_the_state_after(tmp_path):
    world = World(tmp_path)
    words = [sys.executable, "-m", "tests.faults.driver", str(tmp_path), "--sample", str(EACH)]
    words += [word for name in SAMPLE for word in ("--only", name)]
    environment = os.environ | world.variables() | loaded_first(compiled(tmp_path)) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, input="", capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    results = [line for line in map(json.loads, done.stdout.splitlines()) if "kind" in line]
    assert [line for line in results if line["problems"]] == []
    assert sum(line["struck"] for line in results) == EACH * len(SAMPLE)
