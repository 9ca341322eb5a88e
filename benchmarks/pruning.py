"""Pruned suffixes without training: speed of the suffix against the error that pruning adds, and what pruning costs.

    python -m benchmarks.pruning --data ../shared/data [--set emotion] [--seed 0 1] [--flops 0.7] [--work FOLDER]

Each task trains LoRA in the blocks above a boundary, from its config in `configs/`. The graft is then pruned above that
boundary to each share of operations, by `trainers.prune`. Metrics are those of the test rows, before and after. Speed
is that of the suffix alone, blocks and head in one program, on batches of 32 random states of 32 tokens. The side that
was not pruned has its adapter folded in too, so that folding counts for nobody. Both sides run in turn.

Raw runs are kept in `results/pruning.jsonl` as they are made, so that the script goes on where it was ended. The
summary takes, for each task, the smallest share whose added error on the development rows is at most a point, and says
what it does on the test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.graft import Graft, load_graft
from adapters.merging import merge
from adapters.specs import Probe
from backbone.home import use_compilation_cache
from benchmarks.results import RawRuns, parsed, spread, write
from trainers.config.load import load_config
from trainers.config.pruning import Pruning
from trainers.data.examples import load_data
from trainers.prune import prune
from trainers.scoring.metrics import gather
from trainers.train import train

SETS = ("banking77", "sst2", "emotion")
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4)  # operations of the suffix that are left
BATCH, TOKENS = 32, 32  # shape of a timed batch
WARM, TIMED = 3, 20  # calls before and while the clock runs
POINT = 0.01  # error that pruning may add


def trained(name: str, seed: int, above: int, work: Path) -> Path:
    """Returns the folder of a task's graft: LoRA in the blocks above the boundary."""
    blocks = 6 - above
    settings = (f"plan.stages=top({blocks})", "curriculum.difficulty=none", "head_start=shrunk_probe", f"seed={seed}")
    folder = work / f"{name}-{seed}-{above}"
    return Path(train(load_config(name, settings), folder, resume=folder.exists()).graft)


def suffix_of(graft: Graft, above: int) -> Callable[[], Any]:
    """Returns a call of the graft's blocks above the boundary, and its head, on one batch of states."""
    model, params = graft.model, graft.params
    trunk = model.trunk(graft.backbone.params, params)
    if not model.suffix:
        trunk = merge(model, trunk, params.get("adapter", {}))
        model = type(model)(model.network, (Probe(),), model.head, model.labels)
        params = {"head": params["head"]}
    draw = np.random.default_rng(0)
    states = draw.normal(size=(BATCH, TOKENS, graft.backbone.spec.width)).astype(np.float32)
    inputs = jax.device_put({"states": {above: states}, "mask": np.ones((BATCH, TOKENS), bool)})
    head = {"head": params["head"]}
    plain = type(model)(model.network, model.methods, model.head, model.labels)
    program = jax.jit(lambda trunk, head, inputs: plain.logits(trunk, head, inputs))
    arguments = jax.device_put((trunk, head, inputs))
    return lambda: program(*arguments).block_until_ready()


def seconds_of(sides: Sequence[Callable[[], Any]]) -> list[float]:
    """Returns the median seconds of a call of each side; calls take turns."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(WARM + TIMED):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if turn >= WARM:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def test_metrics(graft: Graft, config: Any) -> dict[str, float]:
    """Scores a graft on the test rows."""
    data = load_data(config.data, config.head, graft.backbone, labels=graft.model.labels, splits=("test",))
    rows = data.splits["test"]
    return dict(gather(graft.model, graft.logits_of_rows(rows.rows), rows.labels).compute())


def measure(name: str, seed: int, options: argparse.Namespace, work: Path, runs: RawRuns) -> None:
    """Makes the runs of one task and seed that are missing."""
    missing = [share for share in options.flops if (name, seed, options.above, share) not in runs.done]
    if not missing:
        return
    path, config = trained(name, seed, options.above, work), load_config(name)
    whole = load_graft(path)
    before = test_metrics(whole, config)
    for share in missing:
        with tempfile.TemporaryDirectory() as folder:
            result = prune(path, Path(folder) / "pruned", Pruning(above=options.above, flops=share))
            small = load_graft(Path(folder) / "pruned", whole.backbone)
        seconds = seconds_of([suffix_of(one, options.above) for one in (whole, small)])
        run = {
            "set": name,
            "seed": seed,
            "above": options.above,
            "flops": share,
            "operations": result.operations,
            "blocks": [[part.heads, part.units] for part in result.blocks],
            "split": result.split,
            "before": result.before["accuracy"],
            "after": result.after["accuracy"],
            "test_before": before["accuracy"],
            "test_after": test_metrics(small, config)["accuracy"],
            "seconds_before": seconds[0],
            "seconds_after": seconds[1],
            "speed": seconds[0] / seconds[1],
            "cpu_seconds": result.cpu_seconds,
        }
        runs.add(run)
        print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Takes, for each task, the smallest share that the development rows allow in every seed's own judgement."""
    tasks = {}
    for name in dict.fromkeys(run["set"] for run in runs):
        chosen = []
        for seed in sorted({run["seed"] for run in runs if run["set"] == name}):
            cells = [run for run in runs if (run["set"], run["seed"]) == (name, seed)]
            allowed = [run for run in cells if run["before"] - run["after"] <= POINT]
            chosen += [min(allowed, key=lambda run: run["flops"])] if allowed else []
        values = {"seeds": len(chosen)}
        if chosen:
            values |= {
                "flops": spread([run["flops"] for run in chosen]),
                "speed": spread([run["speed"] for run in chosen]),
                "test_error_added": spread([run["test_before"] - run["test_after"] for run in chosen]),
                "cpu_seconds": spread([run["cpu_seconds"] for run in chosen]),
            }
        tasks[name] = values
    return {"batch": BATCH, "tokens": TOKENS, "error_allowed": POINT, "tasks": tasks}


def main() -> None:
    """Runs what is missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--set", choices=SETS, nargs="*", default=SETS)
    parser.add_argument("--seed", type=int, nargs="*", default=(0, 1, 2, 3, 4), dest="seeds")
    parser.add_argument("--flops", type=float, nargs="*", default=SHARES, help="shares of operations that are left")
    parser.add_argument("--above", type=int, default=2, help="boundary below the pruned blocks")
    parser.add_argument("--work", default=None, help="folder that keeps the trained grafts (default: none is kept)")
    options, provenance = parsed(parser)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    runs = RawRuns("pruning", ("set", "seed", "above", "flops"), provenance)
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for name in options.set:
                measure(name, seed, options, Path(options.work or folder), runs)
    print(write("pruning", summary(list(runs.done.values())), provenance))


if __name__ == "__main__":
    main()
