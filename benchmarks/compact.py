"""Lean networks beside the plain one at equal operations: held-out loss, bytes, and a probe on TREC-6.

    python -m benchmarks.compact --data ../shared/data [--only low_rank] [--seeds 0 1 2] [--steps 512]

Every network is trained on the text of `configs/backbones/text_mlm.py` with its settings. The plain one takes
`--steps` steps, about five minutes on two cores of an AMD EPYC. Every other takes as many as cost the same counted
operations, with its own warm-up and decay over them. The vocabulary, the held-out paragraphs and the masks on them
are the same for all. The probe reads the mean of the last states (`configs/trec6.py`). Raw runs are kept in
`results/compact.jsonl` as they are made; one that is there is not repeated. The summary gives each network's figures
less those of the plain one with the same seed, as a mean with a 95 % interval of Student's t. Losses and operations
do not depend on what else the machine does; seconds are reported and not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from adapters.machine import ready_to_compute
from benchmarks.results import RawRuns, parsed, write
from trainers.config.load import load_as, load_config
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material
from trainers.train import train
from trainers.train_backbone import train_backbone

PLAIN = "text_mlm"
NETWORKS = (
    PLAIN,
    "shared_bytes",
    "shared_flops",
    "factorised_bytes",
    "factorised_flops",
    "grouped_query",
    "low_rank",
)  # configs of `configs/backbones`
COMPARED = ("held_out_loss", "accuracy")


def configured(network: str, seed: int, steps: int) -> BackboneConfig:
    """Returns the config of a network, of a seed and a number of steps, scored at the end alone."""
    settings = (f"seed={seed}", f"steps={steps}", f"evaluate_every={steps}", "checkpoint_seconds=1e6")
    return load_as(BackboneConfig, network, settings)


def flops_of(config: BackboneConfig, material: Material) -> float:
    """Returns the counted operations of a step of a network on rows like those of `material`."""
    from backbone.network.encoder import Network

    assert config.network is not None
    network = Network(config.network.spec(material.preprocessing))
    return BackboneTask(config, replace(material, network=network)).work().flops


def run_of(network: str, seed: int, steps: int, flops: float, folder: Path) -> dict[str, Any]:
    """Trains a network and a probe on it; returns the figures of both."""
    result = train_backbone(configured(network, seed, steps), folder / "trunk")
    settings = (f"backbone={result.backbone}", "adapter.method=probe", f"seed={seed}", "data.max_tokens=64")
    probe = train(load_config("trec6", settings), folder / "probe")
    return {
        "network": network,
        "seed": seed,
        "steps": result.steps,
        "flops": flops * result.steps,
        "held_out_loss": result.held_out_loss,
        "gain": result.gain,
        "parameters": result.parameters,
        "bytes": 4 * result.parameters,
        "accuracy": probe.metrics["test"]["accuracy"],
        "cpu_seconds": result.costs["train"].cpu_seconds,
    }


def summary(runs: RawRuns) -> dict[str, dict[str, Any]]:
    """Takes means over the seeds of every network, and of its differences from the plain one."""
    table: dict[str, dict[str, Any]] = {}
    for network in dict.fromkeys(key[0] for key in runs.done):
        seeds = [key[1] for key in runs.done if key[0] == network]
        chosen = [runs.done[network, seed] for seed in seeds]
        table[network] = {name: float(np.mean([run[name] for run in chosen])) for name in (*COMPARED, "bytes", "flops")}
        plain = {seed: runs.done[PLAIN, seed] for seed in seeds if (PLAIN, seed) in runs.done}
        for name in COMPARED if network != PLAIN and plain else ():
            table[network][f"{name}_less_plain"] = difference(
                [runs.done[network, seed][name] - plain[seed][name] for seed in plain]
            )
    return table


def difference(values: Sequence[float]) -> dict[str, float | None]:
    """Returns the mean and the half-width of its 95 % interval; None for a single seed."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5 if count > 1 else None
    return {"mean": float(np.mean(values)), "half_width": None if half is None else float(half), "seeds": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=512, help="steps of the plain network")
    options, provenance = parsed(parser)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    ready_to_compute()
    runs = RawRuns("compact", ("network", "seed"), provenance)
    with tempfile.TemporaryDirectory() as name:
        plain = configured(PLAIN, 0, options.steps)
        material = plain.objective.read(plain, Path(name), None)
        budget = flops_of(plain, material) * options.steps
        for seed in options.seeds:
            for network in options.only or NETWORKS:
                if (network, seed) in runs.done:
                    continue
                flops = flops_of(configured(network, seed, options.steps), material)
                steps, folder = max(1, round(budget / flops)), Path(name) / f"{network}-{seed}"
                folder.mkdir()
                line = runs.add(run_of(network, seed, steps, flops, folder))
                print(json.dumps({k: v for k, v in line.items() if k != "provenance"}), file=sys.stderr, flush=True)
    table = summary(runs)
    print(json.dumps(table, indent=1))
    print(write("compact", {"summary": table, "raw": "compact.jsonl"}, provenance))


if __name__ == "__main__":
    main()
