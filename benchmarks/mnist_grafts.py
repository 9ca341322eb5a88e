"""A ViT trained on the digits 0-4 and frozen: what its grafts reach on other tasks, beside full fine-tuning.

    python -m benchmarks.mnist_grafts --data ../shared/data --folder runs/mnist_grafts

Three tasks: the digits 5-9, the parity of all digits, and all digits turned by 90 degrees. Four sides on the same
rows, epochs and batch size: a linear probe and LoRA on the frozen backbone, full fine-tuning (`train-backbone` that
starts from it), and the same network from fresh weights. Accuracy on all test rows, one seed. Few train rows are the
default (`--train-fraction`, by hash): that is where a backbone is of use. A run that is in `--folder` is gone on with,
not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import parsed, write

KNOWN, NEW = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
BATCH = 64
FILES = {"train": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}


def tasks(mnist: Path, folder: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Folder of the files and kept labels of each task; files that MNIST does not have are written to `folder`."""
    from trainers.data.formats.idx import idx_array

    for task in ("parity", "rotated"):
        place = folder / task
        place.mkdir(parents=True, exist_ok=True)
        for name in FILES.values():
            pixels = idx_array(mnist / name.format("images-idx3"), 3)
            labels = idx_array(mnist / name.format("labels-idx1"), 1)
            pixels = np.rot90(pixels, axes=(1, 2)) if task == "rotated" else pixels
            write_idx(place / name.format("images-idx3"), pixels)
            write_idx(place / name.format("labels-idx1"), labels % 2 if task == "parity" else labels)
    return {"digits_5_9": (mnist, NEW), "parity": (folder / "parity", ()), "rotated": (folder / "rotated", ())}


def settings_of(folder: Path, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The settings that name the files of a folder and the labels that are kept."""
    files = (
        f"data.{split}={folder / name.format('images-idx3')},{folder / name.format('labels-idx1')}"
        for split, name in FILES.items()
    )
    return (*files, f"data.keep_labels={','.join(labels)}")


def steps_of(folder: Path, labels: tuple[str, ...], epochs: float) -> str:
    """The setting of as many steps as make `epochs` passes over the train rows."""
    from trainers.data.formats.idx import idx_array

    found = idx_array(folder / FILES["train"].format("labels-idx1"), 1)
    rows = np.isin(found, [int(label) for label in labels]).sum() if labels else len(found)
    return f"steps={max(1, round(epochs * float(rows) / BATCH))}"


def write_idx(path: Path, values: np.ndarray) -> None:
    """A gzip IDX file of bytes."""
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + np.ascontiguousarray(values, np.uint8).tobytes(), 1, mtime=0))


def trained(folder: Path, *settings: str) -> dict[str, Any]:
    """One run of `train-backbone vit_small`."""
    from trainers.config.load import load_as
    from trainers.pretraining.config import BackboneConfig
    from trainers.train_backbone import train_backbone

    result = train_backbone(load_as(BackboneConfig, "vit_small", settings), folder, resume=folder.exists())
    return {"accuracy": result.held_out_accuracy, "train_rows": result.train_rows, "steps": result.steps}


def grafted(folder: Path, *settings: str) -> dict[str, Any]:
    """One run of `train mnist`."""
    from trainers.config.load import load_config
    from trainers.train import train

    result = train(load_config("mnist", settings), folder, resume=folder.exists())
    return {"accuracy": result.metrics["test"]["accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--folder", type=Path, required=True, help="of the runs and of the derived files")
    parser.add_argument("--base-epochs", type=int, default=8, help="of the backbone, on the digits 0-4")
    parser.add_argument("--epochs", type=int, default=5, help="of every side")
    parser.add_argument("--train-fraction", type=float, default=0.05, help="share of each task's train rows")
    options, provenance = parsed(parser)
    mnist, runs, share = options.data.resolve() / "mnist", options.folder.resolve(), options.train_fraction
    known = (*settings_of(mnist, KNOWN), steps_of(mnist, KNOWN, options.base_epochs), f"batch_size={BATCH}")
    base, backbone = trained(runs / "base", *known), runs / "base" / "backbone"
    print(f"base: {base}", file=sys.stderr, flush=True)
    results: dict[str, Any] = {}
    for task, (files, labels) in tasks(mnist, runs / "data").items():
        data = (
            *settings_of(files, labels), f"data.train_fraction={share}", "data.dev_fraction=0", f"batch_size={BATCH}"
        )  # fmt: skip
        graft = (*data, f"backbone={backbone}", f"epochs={options.epochs}", "plan.stages=all", "select=last")
        whole = (*data, steps_of(files, labels, options.epochs * share), "objective.shift=0")
        tuned = ("network=none", f"start={backbone}", "optimizer.learning_rate=1e-3")
        results[task] = {
            "probe": grafted(runs / task / "probe", *graft, "adapter.method=probe"),
            "lora": grafted(runs / task / "lora", *graft),
            "full": trained(runs / task / "full", *whole, *tuned),
            "scratch": trained(runs / task / "scratch", *whole),
        }
        print(f"{task}: {results[task]}", file=sys.stderr, flush=True)
    chosen = {"base_epochs": options.base_epochs, "epochs": options.epochs, "train_fraction": share, "batch": BATCH}
    print(write("mnist_grafts", {"seed": 0, "options": chosen, "base": base, "tasks": results}, provenance))


if __name__ == "__main__":
    main()
