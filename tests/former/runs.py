"""Command lines in a folder and home of their own, and what a graft answers, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

try:
    from trainers.config.load import load_config as load_config
except ImportError:  # where the former version has it
    from trainers.experiment import load_config as load_config

from tests.home import linked

ROOT = Path(__file__).resolve().parents[2]
FORMER = ROOT / "tests" / "former"
FLAGS = "--xla_backend_optimization_level=0"  # as in conftest.py; the ids were made with them
# the same as jaxlib 0.10.2 understands them where `backbone.compiler_flags` adds nothing
UNCURED = f"{FLAGS} --xla_cpu_experimental_ynn_fusion_type=+reduce"
# goes on knowingly with a compiler whose known answers are wrong
ACCEPT = """
import os
from adapters.machine import ACCEPT, machine_record
os.environ[ACCEPT] = machine_record().verdict
"""
# several command lines in one process, which imports jax once; a line of [status, stdout] for each
CHILD = """
import contextlib, io, json, sys, topgraft
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = topgraft.main(words)
    print(json.dumps([status, said.getvalue()]), flush=True)
"""


def processor() -> str:
    """Names the processor by model and instruction sets, which decide how compiled programs round."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    found = dict(map(str.strip, line.split(":", 1)) for line in reversed(lines) if ":" in line)
    flags = hashlib.sha256(" ".join(sorted(found.get("flags", "").split())).encode()).hexdigest()[:16]
    names = ("model name", "cpu family", "model", "stepping")
    return f"{platform.machine()}, {', '.join(found.get(name, '') for name in names)}, instruction sets {flags}"


def numerics() -> dict[str, str]:
    """Names what decides the last bits of a run."""
    libraries = ("jax", "jaxlib", "numpy", "scipy", "optax", "flax")
    return {"processor": processor(), "flags": FLAGS} | {name: version(name) for name in libraries}


def environment(home: Path, flags: str = FLAGS) -> dict[str, str]:
    """Gives the variables of a command that has `home` for itself and shares compiled programs with all tests."""
    own = {"TOPGRAFT_HOME": str(linked(home)), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return os.environ | own | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def called(
    place: Path, lines: Sequence[Sequence[str]], home: str = "home", *, child: str = CHILD, flags: str = FLAGS
) -> list[dict[str, Any]]:
    """Runs command lines in `place`, in one process; gives the JSON object that each printed."""
    command = [sys.executable, "-c", child, json.dumps([[*words, "--json"] for words in lines])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=place, env=environment(place / home, flags)
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines), done.stderr
    for words, (status, said) in zip(lines, answers, strict=True):
        assert status == 0, f"{words}: {said}\n{done.stderr}"
    return [json.loads(said.splitlines()[-1]) for _, said in answers]


def answers(graft: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Gives what a graft answers, and some logits, as JSON; with early exits, also what answers early and where."""
    found = []
    for answer in graft.predict(texts):
        told = {"labels": list(answer.labels), "probabilities": answer.probabilities, "value": answer.value}
        entities = [[entity.type, entity.start, entity.end] for entity in answer.entities]
        found.append(told | {"entities": entities, "out_of_scope": answer.out_of_scope})
    found.append({"logits": graft.logits(texts[:2]).tolist()})
    if graft.exits is not None:
        logits, left_at = graft.early_logits_of_rows(graft.encode(texts))
        found.append({"early": logits.tolist(), "left_at": left_at.tolist()})
    return found
