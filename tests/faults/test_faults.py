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
from tests.registry.postgres import binaries

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
ON_SERVER = ("promote on PostgreSQL", "import a registry on PostgreSQL", "upgrade a registry on PostgreSQL")
EACH = 2  # faults of a scenario


def enumerated(folder: Path, names: tuple[str, ...], *options: object) -> list[dict]:
    """What became of a sample of the faults of some scenarios."""
    words = [sys.executable, "-m", "tests.faults.driver", str(folder), "--sample", str(EACH), *map(str, options)]
    words += [word for name in names for word in ("--only", name)]
    variables = World(folder).variables() | loaded_first(compiled(folder)) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, input="", capture_output=True, text=True, env=os.environ | variables, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line for line in map(json.loads, done.stdout.splitlines()) if "kind" in line]


@pytest.mark.skipif(compiler() is None, reason="no compiler of C")
def test_a_fault_leaves_the_state_before_or_the_state_after(tmp_path, request):
    port = request.getfixturevalue("postgres").port if binaries() else 0
    names = SAMPLE + (ON_SERVER if port else ())
    results = enumerated(tmp_path, names, "--port", port)
    assert [line for line in results if line["problems"]] == []
    assert sum(line["struck"] for line in results) == EACH * len(names)
