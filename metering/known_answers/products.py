"""Products: layouts, heads, bfloat16 and int8, low-rank updates, and the gradients of a product.

Shapes: B rows, T tokens, I inputs, O outputs, r rank, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from metering.known_answers.program import U16, Array, Program, gamma


def programs(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields the programs; `rounding` is the relative error with which the backend reads a product's inputs."""
    yield from _layouts(draw, rounding)
    yield from _narrow(draw)
    yield from _gradients(draw, rounding)


def _normal(draw: np.random.Generator, *shape: int) -> Array:
    return draw.normal(size=shape).astype(np.float32)


def _einsum(letters: str, *arrays: Array) -> tuple[Array, Array]:
    """Returns a product in float64, and the same of absolute values."""
    wide = [array.astype(np.float64) for array in arrays]
    return np.einsum(letters, *wide), np.einsum(letters, *map(np.abs, wide))


def _layouts(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields each layout with small whole numbers, exact in any order, and some with numbers that round."""
    cases = (
        ("product", "bi,io->bo", (33, 48), (48, 65)),
        ("product with a transposed kernel", "bi,oi->bo", (19, 130), (24, 130)),
        ("product of one row", "bi,io->bo", (1, 384), (384, 96)),
        ("product of a narrow kernel", "bi,io->bo", (130, 3), (3, 3)),
        ("product of rows of tokens", "bti,io->bto", (3, 17, 32), (32, 96)),
        ("products of heads", "bthd,bshd->bhts", (2, 9, 4, 8), (2, 9, 4, 8)),
        ("products of heads with their values", "bhts,bshd->bthd", (2, 4, 9, 9), (2, 9, 4, 8)),
    )
    for name, letters, first, second in cases:

        def compute(x: jax.Array, w: jax.Array, letters: str = letters) -> jax.Array:
            return jnp.einsum(letters, x, w)

        whole = [draw.integers(-9, 10, shape).astype(np.float32) for shape in (first, second)]
        yield Program(f"{name}, whole numbers", compute, tuple(whole), np.einsum(letters, *whole))
        if letters.startswith("bt") or first[0] == 33:
            x, w = _normal(draw, *first), _normal(draw, *second)
            right, absolute = _einsum(letters, x, w)
            yield Program(name, compute, (x, w), right, (gamma(first[-1]) + 2 * rounding) * absolute)


def _narrow(draw: np.random.Generator) -> Iterator[Program]:
    x, w = (_normal(draw, *shape).astype(ml_dtypes.bfloat16) for shape in ((21, 64), (64, 40)))
    right, absolute = _einsum("bi,io->bo", x, w)
    yield Program(
        "bfloat16 product in float32",
        lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32),
        (x, w),
        right,
        gamma(64) * absolute,
    )
    # sums may be kept in bfloat16 once in each half, then rounded to it
    yield Program("bfloat16 product", jnp.matmul, (x, w), right, 3 * U16 * absolute)
    for rows, inputs, outputs in ((17, 67, 33), (1, 64, 8)):
        a, b = (draw.integers(-128, 128, shape, dtype=np.int8) for shape in ((rows, inputs), (inputs, outputs)))
        yield Program(
            f"int8 product of {rows} x {inputs} in int32",
            lambda a, b: jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32),
            (a, b),
            a.astype(np.int32) @ b.astype(np.int32),
        )


def _gradients(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    x, w, g = _normal(draw, 120, 24), _normal(draw, 24, 40), _normal(draw, 120, 40)

    def loss(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.sum((x @ w) * g)

    right, absolute = _einsum("bi,bo->io", x, g)
    kernel = (gamma(120 + 1) + 2 * rounding) * absolute
    yield Program("gradient of a kernel", jax.grad(loss, 1), (x, w, g), right, kernel)
    right, absolute = _einsum("bo,io->bi", g, w)
    yield Program(
        "gradient of a product's input", jax.grad(loss), (x, w, g), right, (gamma(41) + 2 * rounding) * absolute
    )

    y, a, b = _normal(draw, 31, 48), _normal(draw, 24, 4), _normal(draw, 4, 48)
    x = _normal(draw, 31, 24)
    right, absolute = _einsum("bi,ir,ro->bo", x, a, b)
    yield Program(
        "low-rank update",
        lambda y, x, a, b: y + 0.5 * ((x @ a) @ b),
        (y, x, a, b),
        y + 0.5 * right,
        (gamma(24 + 4 + 2) + 4 * rounding) * (np.abs(y) + 0.5 * absolute),
    )
