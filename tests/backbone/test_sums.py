"""Sums along the last axis: right, and of the same bits whatever the number of rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from backbone.network.sums import last_mean, last_sum


@pytest.mark.cpu_bits
@pytest.mark.parametrize("width", [24, 384])
def test_a_sum_has_the_same_bits_beside_any_number_of_rows(width):
    x = np.random.default_rng(width).normal(size=(4096 // width * 3, 2, width)).astype(np.float32)
    add = jax.jit(lambda x: (last_sum(x, exact_rows=True), last_mean(x, exact_rows=True)))
    sums, means = map(np.asarray, add(x))
    np.testing.assert_allclose(sums, x.astype(float).sum(axis=-1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(means, x.astype(float).mean(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6)
    for rows in (1, 2, 4096 // width // 2, 4096 // width, 4096 // width + 1):
        for part, whole in zip(add(x[:rows]), (sums, means), strict=True):
            np.testing.assert_array_equal(part, whole[:rows], err_msg=f"{rows} rows")


def test_without_exact_rows_nothing_is_added():
    x = np.ones((2, 3), np.float32)
    text = jax.make_jaxpr(lambda x: last_sum(x, exact_rows=False))(x).pretty_print()
    assert "pad" not in text
    np.testing.assert_array_equal(last_mean(x, exact_rows=False), [[1], [1]])
