"""One suite that every backbone objective inherits.

A new objective is found by its registration. The suite runs its `example()` on random rows of what it reads.
"""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.records import decode, encode
from backbone.trees import flatten
from tests.trainers.pretraining.backbone_runs import OBJECTIVES, counted_as_compiled, nonzero_params, task_of
from trainers.pretraining.config import Objective


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
