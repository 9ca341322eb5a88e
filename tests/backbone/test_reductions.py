"""Means along the last axis: right, and of the same bits whatever the number of rows. Attention alike."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from backbone.network.attention import attention
from backbone.network.reductions import last_mean


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.cpu_bits
@pytest.mark.parametrize("width", [24, 384])
def test_a_mean_has_the_same_bits_beside_any_number_of_rows(width):
    x = drawn(4096 // width * 3, 2, width)
    mean = jax.jit(functools.partial(last_mean, exact_rows=True))
    whole = np.asarray(mean(x))
    np.testing.assert_allclose(whole, x.astype(float).mean(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6)
    for rows in (1, 2, 4096 // width // 2, 4096 // width, 4096 // width + 1):
        np.testing.assert_array_equal(mean(x[:rows]), whole[:rows], err_msg=f"{rows} rows")


@pytest.mark.cpu_bits
@pytest.mark.parametrize(("tokens", "heads"), [(8, 12), (16, 12), (24, 2)])
def test_attention_has_the_same_bits_beside_any_number_of_rows(tokens, heads):
    q, k, v = (drawn(16, tokens, 16 * heads, seed=seed) for seed in range(3))
    mask = np.arange(tokens) < np.random.default_rng(3).integers(1, tokens + 1, 16)[:, None]
    mixed = jax.jit(functools.partial(attention, heads=heads, exact_rows=True))
    whole = np.asarray(mixed(q, k, v, mask))
    np.testing.assert_allclose(whole, attention(q, k, v, mask, heads), rtol=1e-4, atol=1e-5)
    for rows in (1, 2, 3, 5, 8):
        np.testing.assert_array_equal(mixed(q[:rows], k[:rows], v[:rows], mask[:rows]), whole[:rows])


def test_without_exact_rows_nothing_is_added():
    x = np.ones((2, 3), np.float32)
    text = jax.make_jaxpr(lambda x: last_mean(x, exact_rows=False))(x).pretty_print()
    assert "pad" not in text
    np.testing.assert_array_equal(last_mean(x, exact_rows=False), [[1], [1]])
