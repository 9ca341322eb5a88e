"""One suite that every backbone objective inherits.

A new objective is found by its registration. The suite runs its `example()` on random rows of what it reads.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.encoder import Network
from backbone.images import ImagePreprocessing
from backbone.records import decode, encode
from backbone.registered import variants
from backbone.trees import flatten
from tests import tiny, tiny_images
from tests.trainers.backbone_runs import counted_as_compiled, first_params
from trainers.config import Data
from trainers.pretraining.config import BackboneConfig, NewVit, Objective
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material

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


def task_of(tag: str) -> BackboneTask:
    objective = OBJECTIVES[tag]
    if objective.reads == "text":
        return BackboneTask(BackboneConfig(objective=objective, batch_size=8, steps=4), text_material())
    data = Data(train=("x",), format="image_folder")
    config = BackboneConfig(objective=objective, data=data, network=NewVit(), tokenizer=None, batch_size=8, steps=4)
    return BackboneTask(config, image_material())


def nonzero_params(task: BackboneTask):
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.1 * draw.normal(size=x.shape).astype(np.float32), first_params(task))


@pytest.mark.parametrize("tag", OBJECTIVES)
def test_an_objective_survives_its_json(tag):
    values = encode(OBJECTIVES[tag])
    assert values["kind"] == tag
    assert decode(Objective, json.loads(json.dumps(values))) == OBJECTIVES[tag]


@pytest.mark.parametrize("tag", OBJECTIVES)
def test_the_key_decides_and_rows_without_weight_do_not_count(tag):
    task = task_of(tag)
    params, material = nonzero_params(task), task.material
    loss = jax.jit(functools.partial(OBJECTIVES[tag].loss, material))
    score = jax.jit(functools.partial(OBJECTIVES[tag].score, material))
    batch = material.batch("train", np.arange(6), 8)
    other = {**batch, "ids": np.concatenate([batch["ids"][:6], material.splits["train"]["ids"][20:22]])}
    first, count = loss(params, batch, jax.random.key(3))
    assert first.dtype == jnp.float32
    assert np.isfinite(first)
    assert count > 0
    for rows in (batch, other):
        assert loss(params, rows, jax.random.key(3)) == (first, count)
    means, _ = score(params, batch, jax.random.key(3))
    assert means.keys() == set(OBJECTIVES[tag].scores) >= {"loss"}
    rough, _ = jax.jit(functools.partial(OBJECTIVES[tag].loss, material, dtype=jnp.bfloat16, remat=True))(
        params, batch, jax.random.key(3)
    )
    np.testing.assert_allclose(rough, first, rtol=0.1)


@pytest.mark.parametrize("tag", OBJECTIVES)
def test_gradients_reach_the_head_and_what_is_used_of_the_backbone(tag):
    task = task_of(tag)
    batch = task.material.batch("train", np.arange(8), 8)
    loss = functools.partial(OBJECTIVES[tag].loss, task.material)
    gradient = flatten(jax.jit(jax.grad(lambda p: loss(p, batch, jax.random.key(0))[0]))(nonzero_params(task)))
    for path, leaf in gradient.items():
        assert np.any(leaf) == task.is_live(path), f"{path}: `is_used` says whether it has a gradient"


@pytest.mark.parametrize("tag", OBJECTIVES)
def test_counted_work_is_that_of_the_compiler(tag):
    counted_as_compiled(task_of(tag))
