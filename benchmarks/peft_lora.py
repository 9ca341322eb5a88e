"""LoRA here against LoRA in PEFT: the same recipe, alternating on the same cores, warmed up.

    python -m benchmarks.peft_lora --peers .venv-peers/bin/python --data ../shared/data

Banking77, rank 8 on query and value, batch 32, float32, all cores. Four peers: random batches and
length-grouped batches, each with the backbone's own dropout (as PEFT comes) and without (as here).
One epoch (or `--share` of it) in `--segments` parts, sides alternating, gives training throughput;
`--repeats` passes over the test rows give inference. The result file holds every raw run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backbone.exchange.importing import minilm_folder
from benchmarks.results import ROOT, parsed, spread, write

SIDES = ("topgraft", "peft_random", "peft_grouped", "peft_random_no_dropout", "peft_grouped_no_dropout")


class Worker:
    """A process that obeys, one JSON line at a time."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def without_dropout(folder: Path) -> Path:
    """A copy of MiniLM's folder whose config has no dropout."""
    for source in minilm_folder().iterdir():
        if source.is_file() and source.name != "config.json":
            (folder / source.name).symlink_to(source)
    config = json.loads((minilm_folder() / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measure(options: argparse.Namespace, workers: dict[str, Worker]) -> dict[str, Any]:
    """Raw runs of every side."""
    info = {name: worker.ask(cmd="info") for name, worker in workers.items()}
    for name in SIDES[1:]:  # PyTorch's warm-up; topgraft compiled every bucket in `info`
        workers[name].ask(cmd="train", order="random", epoch=9, batches=[0, 5])
        workers[name].ask(cmd="predict", batch_size=64)
    train: dict[str, list[Any]] = {name: [] for name in SIDES}
    infer: dict[str, list[Any]] = {name: [] for name in SIDES[:2]}
    for part in range(options.segments):
        for name in SIDES if part % 2 else SIDES[::-1]:
            total = int(info[name]["batches"] * options.share)
            bounds = [total * part // options.segments, total * (part + 1) // options.segments]
            order = "length_grouped" if "grouped" in name else "random"
            train[name].append(workers[name].ask(cmd="train", order=order, epoch=0, batches=bounds))
        print(f"training: part {part + 1} of {options.segments}", file=sys.stderr, flush=True)
    for number in range(options.repeats):
        for name in SIDES[:2] if number % 2 else SIDES[1::-1]:
            infer[name].append(workers[name].ask(cmd="predict", batch_size=64))
        print(f"inference: {number + 1} of {options.repeats}", file=sys.stderr, flush=True)
    return {"info": info, "train": train, "inference": infer}


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """Throughput of each side and the ratios the project is judged by."""

    def total(name: str, field: str) -> float:
        return float(sum(run[field] for run in raw["train"][name]))

    rate = {name: total(name, "rows") / total(name, "seconds") for name in SIDES}
    cpu = {name: total(name, "rows") / total(name, "cpu_seconds") for name in SIDES}
    ours, theirs = ([run["seconds"] for run in raw["inference"][name]] for name in SIDES[:2])
    parts = {
        name: [
            (a["rows"] / a["seconds"]) / (b["rows"] / b["seconds"])
            for a, b in zip(raw["train"]["topgraft"], raw["train"][name], strict=True)
        ]
        for name in SIDES[1:]
    }
    return {
        "rows_per_second": rate,
        "rows_per_cpu_second": cpu,
        "padded_tokens": {name: total(name, "padded_tokens") for name in SIDES},
        "training_ratio": {name: rate["topgraft"] / rate[name] for name in SIDES[1:]},
        "training_ratio_of_parts": {name: spread(values) for name, values in parts.items()},
        "inference_ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python of the environment with torch, transformers and peft")
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--share", type=float, default=1.0, help="of the epoch's batches that are run")
    parser.add_argument("--segments", type=int, default=10, help="parts of the epoch")
    parser.add_argument("--repeats", type=int, default=7, help="passes over the test rows")
    options, provenance = parsed(parser)
    data = str(Path(options.data).resolve())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        plain = str(without_dropout(Path(folder)))
        recipe = [
            options.peers,
            "-m",
            "benchmarks.peers.peft_recipe",
            "--worker",
            "--task",
            "banking77",
            "--data",
            data,
        ]
        root = str(Path(data) / "banking77")
        files = ("--set", f"data.train={root}/train.csv", "--set", f"data.test={root}/test.csv")
        commands = {"topgraft": [sys.executable, "-m", "benchmarks.peers.ours_recipe", "--config", "banking77", *files]}
        for name in SIDES[1:]:
            commands[name] = [*recipe, "--model", plain if "no_dropout" in name else str(minilm_folder())]
        workers = {name: stack.enter_context(Worker(command)) for name, command in commands.items()}
        raw = measure(options, workers)
    result = {"seed": 0, "share_of_the_epoch": options.share, "summary": summary(raw), "raw": raw}
    print(json.dumps(result["summary"], indent=1))
    print(write("peft_lora", result, provenance))


if __name__ == "__main__":
    main()
