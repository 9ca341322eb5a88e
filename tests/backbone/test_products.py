"""The product of states and a kernel: values and gradients are those of the plain product."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from backbone.network.products import matrix_product


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 5), (5, 12), (8, 8)])
def test_values_and_gradients_are_those_of_the_plain_product(inputs: int, outputs: int) -> None:
    draw = np.random.default_rng(0)
    x, kernel, g = (draw.normal(size=shape) for shape in ((7, inputs), (inputs, outputs), (7, outputs)))
    with jax.enable_x64(True):
        y, pull = jax.vjp(jax.jit(matrix_product), x, kernel)
        to_x, to_kernel = pull(jax.numpy.asarray(g))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-12)
    np.testing.assert_allclose(to_x, g @ kernel.T, rtol=1e-12)
    np.testing.assert_allclose(to_kernel, x.T @ g, rtol=1e-12)


def test_a_batch_of_kernels_is_mapped() -> None:
    draw = np.random.default_rng(1)
    x, kernels = draw.normal(size=(3, 7, 12)).astype(np.float32), draw.normal(size=(3, 12, 5)).astype(np.float32)
    gradient = jax.vmap(jax.grad(lambda k, rows: matrix_product(rows, k).sum()))(kernels, x)
    np.testing.assert_allclose(gradient, x.sum(axis=1)[:, :, None].repeat(5, axis=2), rtol=1e-5)


def test_a_program_for_another_platform_is_lowered() -> None:
    program = jax.jit(jax.grad(lambda k, x: matrix_product(x, k).sum()))
    shapes = jax.ShapeDtypeStruct((12, 5), np.float32), jax.ShapeDtypeStruct((7, 12), np.float32)
    for platform, barriers in (("cpu", 1), ("tpu", 0), ("cuda", 0)):
        text = program.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("optimization_barrier") == barriers, platform
