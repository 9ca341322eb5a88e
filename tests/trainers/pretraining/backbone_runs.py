"""What the tests of `train-backbone` share, whatever it trains on: the command, one whole run, a killed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import topgraft
from backbone.images import ImagePreprocessing
from backbone.network.encoder import Network
from backbone.storage import load_backbone
from backbone.variants.registered import variants
from tests import tiny, tiny_images
from tests.tiny import WORDS, as_json
from trainers.config import Data
from trainers.fitting.step import partition
from trainers.pretraining.config import BackboneConfig, NewVit, Objective
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material

ROOT = Path(__file__).resolve().parents[3]
STEPS = 240
EVALUATED = [80, 160, 240]


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Chains of words in which nine in ten follow from the one before."""
    draw, known = random.Random(seed), WORDS[::6]
    made = []
    for _ in range(count):
        at, words = draw.randrange(len(known)), []
        for _ in range(draw.randrange(4, 30)):
            words.append(known[at])
            at = (at * 3 + 1) % len(known) if draw.random() < 0.9 else draw.randrange(len(known))
        made.append(" ".join(words))
    return made


def call(*arguments, capsys) -> tuple[int, str, str]:
    """The console command in this process."""
    status = topgraft.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def settings(*values: str) -> list[str]:
    """A.B=C as options."""
    return [part for value in values for part in ("--set", value)]


def result_of(run: Path) -> dict[str, Any]:
    """The result that a run stored."""
    return json.loads((run / "result.json").read_text())


def killed_and_resumed(place: Path, run: Path, whole: Path, capsys) -> None:
    """kill -9 while training, after a checkpoint; then a budget that ends at once; then to the end: the same bits."""
    arguments = ["train-backbone", str(place / "config.py"), "--workdir", str(run), "--quiet"]
    command = [sys.executable, "-m", "topgraft", *arguments, *settings("checkpoint_seconds=0.0001")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    assert process.stderr is not None
    deadline = time.monotonic() + 500
    while not any(p.name.isdigit() for p in (run / "checkpoints").glob("*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (run / "backbone").exists(), "killed in the middle"

    status, out, err = call(*arguments, "--resume", *settings("max_seconds=0.001"), "--json", capsys=capsys)
    assert status == 0, err
    stopped = as_json(out)
    assert stopped["resumed"]
    assert not stopped["finished"]
    assert 0 < stopped["steps"] < stopped["of_steps"]
    assert load_backbone(run / "backbone").weights_id == stopped["weights_id"], "usable as it is"

    status, out, err = call(*arguments, "--resume", "--json", capsys=capsys)
    assert status == 0, err
    found, wanted = as_json(out), result_of(whole)
    assert found["finished"]
    assert found["weights_id"] == wanted["weights_id"] != stopped["weights_id"]
    for name in ("held_out_loss", "held_out_accuracy"):
        assert found[name] == wanted[name]
    assert (whole / "head.safetensors").read_bytes() == (run / "head.safetensors").read_bytes()
    lines, others = ((f / "metrics.jsonl").read_text() for f in (run, whole))
    assert lines == others, "nothing is logged twice, nothing is left out"


def first_params(task: BackboneTask) -> dict[str, Any]:
    """Fresh {"backbone", "head"}."""
    material, rng = task.material, jax.random.key(0)
    return {"backbone": material.network.init(0), "head": task.config.objective.init_head(material, rng)}


def counted_as_compiled(task: BackboneTask) -> None:
    """The work of a step, counted on paper, is that of the compiler."""
    live, frozen = partition(first_params(task), task.is_live)
    batch = task.material.batch("train", task.rows(0), 8)
    lowered = jax.jit(jax.value_and_grad(task.loss, has_aux=True)).lower(live, frozen, batch, jax.random.key(0))
    assert task.work().flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.25)


OBJECTIVES = {tag: kind.example() for tag, kind in variants(Objective).items()}
TEXT = replace(tiny.SPEC, blocks=1)


def text_material() -> Material:
    """48 rows of 32 random tokens."""
    ids = np.random.default_rng(0).integers(5, TEXT.vocabulary, (48, 32)).astype(np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    rows = {"ids": ids}
    splits = {"train": rows, "held_out": rows}
    return Material(Network(TEXT), tiny.preprocessing_of(TEXT), "bert", {}, splits, special=(0, 2, 3), mask_id=4)


def image_material() -> Material:
    """48 random pictures of three labels."""
    draw, image = np.random.default_rng(0), tiny_images.IMAGE
    rows = {"ids": draw.integers(0, 256, (48, image.tokens, image.patch_width), np.uint8)}
    rows["labels"] = draw.integers(0, 3, 48).astype(np.int32)
    splits, preprocessing = {"train": rows, "held_out": rows}, ImagePreprocessing(image, resize=image.size)
    return Material(Network(tiny_images.SPEC), preprocessing, "vit", {}, splits, labels=("a", "b", "c"))


def with_teacher(material: Material) -> Material:
    """The same rows, of several lengths, with states of a teacher of the same width."""
    draw = np.random.default_rng(2)
    count, tokens = material.splits["train"]["ids"].shape[:2]
    rows = {
        **material.splits["train"],
        "lengths": draw.integers(tokens // 2, tokens + 1, count).astype(np.int32),
        "states": draw.normal(size=(count, 1, tokens, material.network.spec.width)).astype(np.float16),
    }
    network = Network(replace(material.network.spec, blocks=1))
    return replace(material, network=network, splits={"train": rows, "held_out": rows})


def task_of(tag: str) -> BackboneTask:
    objective = OBJECTIVES[tag]
    if objective.brings_network:
        text = objective.reads == "text"
        data = Data() if text else Data(train=("x",), format="image_folder")
        config = BackboneConfig(objective=objective, data=data, network=None, tokenizer=None, batch_size=8, steps=4)
        return BackboneTask(config, with_teacher(text_material() if text else image_material()))
    if objective.reads == "text":
        return BackboneTask(BackboneConfig(objective=objective, batch_size=8, steps=4), text_material())
    data = Data(train=("x",), format="image_folder")
    config = BackboneConfig(objective=objective, data=data, network=NewVit(), tokenizer=None, batch_size=8, steps=4)
    return BackboneTask(config, image_material())


def nonzero_params(task: BackboneTask):
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.1 * draw.normal(size=x.shape).astype(np.float32), first_params(task))
