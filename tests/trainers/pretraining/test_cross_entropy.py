"""Cross-entropy by chunks: equal to the whole in loss and gradient, in a fraction of its memory."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.errors import InputError
from backbone.trees import flatten
from tests.trainers.pretraining.backbone_runs import counted_as_compiled, nonzero_params, task_of
from trainers.pretraining.config import MaskedTokens
from trainers.pretraining.cross_entropy import chunked_cross_entropy
from trainers.pretraining.loop import BackboneTask


def drawn(rows: int, width: int, vocabulary: int):
    draw = np.random.default_rng(0)
    y, table = draw.normal(size=(rows, width)), draw.normal(size=(vocabulary, width))
    weights = np.arange(rows) % 4 != 1
    return (
        *(jnp.asarray(a, jnp.float32) for a in (y, table, draw.normal(size=vocabulary))),
        jnp.asarray(draw.integers(0, vocabulary, rows), jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


def whole(y, table, bias, targets, weights):
    """The formula at once: -log softmax(y W^T + b) of the target."""
    logits = jnp.einsum("ne,ve->nv", y, table, preferred_element_type=jnp.float32) + bias
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return (losses * weights).sum()


@pytest.mark.parametrize("chunk", [1, 7, 32, 100])
def test_loss_and_gradient_are_those_of_the_whole(chunk):
    arrays = drawn(32, 8, 41)
    wanted, gradients = jax.value_and_grad(whole, argnums=(0, 1, 2))(*arrays)
    found, ours = jax.value_and_grad(chunked_cross_entropy, argnums=(1, 2, 3))(chunk, *arrays)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for a, b in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(chunked_cross_entropy(chunk, *arrays), wanted, rtol=1e-6)
    large = (arrays[0] * 1e4, *arrays[1:])
    np.testing.assert_allclose(chunked_cross_entropy(chunk, *large), whole(*large), rtol=1e-6)


def test_bfloat16_states_give_a_bfloat16_gradient_near_the_float32_one():
    y, *rest = drawn(32, 8, 41)
    wanted = jax.grad(whole)(y, *rest)
    found = jax.grad(chunked_cross_entropy, argnums=1)(8, y.astype(jnp.bfloat16), *rest)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.05)


def test_a_step_over_30_000_classes_needs_less_than_a_quarter_of_the_memory():
    """By the compiler's account of what a program keeps beside its arguments and results."""
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in drawn(1024, 64, 30_000)]
    chunked = jax.jit(jax.value_and_grad(lambda *a: chunked_cross_entropy(64, *a), argnums=(0, 1, 2)))
    at_once = jax.jit(jax.value_and_grad(whole, argnums=(0, 1, 2)))
    needed = [program.lower(*shapes).compile().memory_analysis().temp_size_in_bytes for program in (chunked, at_once)]
    assert needed[1] > 1024 * 30_000 * 4, "the whole keeps the logits of every row"
    assert needed[0] < needed[1] / 4


def test_the_objective_is_the_same_by_chunks():
    task = task_of("masked_tokens")
    by_chunks = BackboneTask(replace(task.config, objective=MaskedTokens(chunk=6)), task.material)
    params, batch = nonzero_params(task), task.material.batch("train", np.arange(6), 8)

    def both(task):
        loss = jax.value_and_grad(lambda p: task.config.objective.loss(task.material, p, batch, jax.random.key(2))[0])
        return jax.jit(loss)(params)

    (wanted, gradient), (found, ours) = both(task), both(by_chunks)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for path, leaf in flatten(ours).items():
        np.testing.assert_allclose(leaf, flatten(gradient)[path], rtol=1e-3, atol=1e-6, err_msg=path)
    with pytest.raises(InputError, match="chunk: may not be negative"):
        MaskedTokens(chunk=-1)


def test_counted_work_is_that_of_the_compiler_in_one_chunk():
    task = task_of("masked_tokens")
    counted_as_compiled(BackboneTask(replace(task.config, objective=MaskedTokens(chunk=48)), task.material))
