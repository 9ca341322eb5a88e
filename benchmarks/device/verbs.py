"""`train-backbone` and `train` of tiny configs through the console command, on the device and on the CPU.

Both runs of a verb have one config and one seed. Compared are the held-out loss, the score, and every tensor, relative
to its largest entry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from backbone.storage import load_backbone
from backbone.trees import flatten
from benchmarks.device.part import Part, described, problem
from benchmarks.results import ROOT

BACKBONE = """
from trainers.pretraining.config import *

def get_config():
    network = NewBert(blocks=2, width=64, heads=4, mlp_width=128)
    corpus = Corpus(files=({text!r},), tokens=32, held_out_fraction=0.1)
    return BackboneConfig(name="tiny", corpus=corpus, tokenizer=WordPiece(vocabulary=300), network=network, steps=60,
                          batch_size=16, checkpoint_seconds=0)
"""
LOSS, SCORE = 0.05, 0.05  # largest differences of a held-out loss, in nats, and of a score that are called equal


def run(words: list[str], platforms: str | None) -> tuple[dict[str, Any], float]:
    """Runs a verb with `--json`; returns its result and its seconds. Raises RuntimeError where it fails."""
    environment = dict(os.environ)
    if platforms:
        environment["JAX_PLATFORMS"] = platforms
    command, started = [sys.executable, "-m", "topgraft", *words, "--json", "--quiet"], time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: status {done.returncode}: {done.stderr[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]), time.perf_counter() - started


def tensors(workdir: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of the graft or of the backbone that a run left."""
    graft = workdir / "graft" / "graft.safetensors"
    if graft.is_file():
        return load_file(graft)
    params = load_backbone(workdir / "backbone", precision="float32").params
    return {path: np.asarray(leaf) for path, leaf in flatten(params).items()}


def largest_difference(one: Path, other: Path) -> float:
    """Returns the largest difference of two runs' tensors, each relative to its largest entry (at least 0.01)."""
    left, right = tensors(one), tensors(other)
    if left.keys() != right.keys():
        raise ValueError(f"{one.name}: other tensors on the device than on the CPU")
    return max(
        float(np.abs(left[n] - right[n]).max() / max(0.01, np.abs(right[n]).max())) for n in left if left[n].size
    )


def compared(part: Part, verb: str, config: Path, folder: Path, numbers: tuple[str, ...]) -> None:
    """Runs a verb on both and writes what differs."""
    figures: dict[str, Any] = {}
    results: dict[str, dict[str, Any]] = {}

    def on(name: str) -> None:
        words = [verb, str(config), "--workdir", str(folder / f"{verb}-{name}")]
        try:
            results[name], seconds = run(words, "cpu" if name == "cpu" else None)
            figures[name] = {"seconds": seconds} | {number: pick(results[name], number) for number in numbers}
            figures[name]["costs"] = results[name].get("costs")
        except Exception as error:  # noqa: BLE001  # the other run is still of use
            figures[name] = {"problem": problem(error)}

    with ThreadPoolExecutor() as pool:
        list(pool.map(on, ("device", "cpu")))
    part.add(**{verb: figures})
    if len(results) == 2:
        works = [folder / f"{verb}-{name}" for name in ("device", "cpu")]
        differences = {n: abs(figures["device"][n] - figures["cpu"][n]) for n in numbers}
        allowed = [LOSS if "loss" in name else SCORE for name in numbers]
        figures["differences"] = differences | {"tensors": largest_difference(*works)}
        figures["equal"] = all(d <= limit for d, limit in zip(differences.values(), allowed, strict=True))
        part.add(**{verb: figures})


def pick(result: dict[str, Any], path: str) -> float:
    """Returns the number at a dotted path of a result."""
    value: Any = result
    for name in path.split("."):
        value = value[name]
    return float(value)


def main() -> None:
    part = Part("verbs", __doc__.split("\n")[0])
    part.add(device=described())
    from tests.tiny import make_tiny_backbone, rows, write_config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("\n\n".join(line for line, _ in rows(3000, seed=5)) + "\n")
        (folder / "backbone.py").write_text(BACKBONE.format(text=str(text)))
        config = write_config(
            folder / "graft.py",
            make_tiny_backbone(folder / "trunk"),
            folder,
            adapter="Lora(rank=4)",
            precision="'float32'",
            optimizer="Optimizer(learning_rate=5e-3)",
        )
        verbs = (
            ("train-backbone", folder / "backbone.py", ("held_out_loss",)),
            ("train", config, ("metrics.test.accuracy",)),
        )
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda verb: compared(part, verb[0], verb[1], folder, verb[2]), verbs))


if __name__ == "__main__":
    main()
