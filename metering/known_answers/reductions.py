"""Reductions: long and short axes, under `vmap`, masked, and their gradients.

The sums of narrow rows under `vmap` are those that jaxlib 0.10 gets wrong on a CPU (jax#39103).
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from metering.known_answers.program import FUNCTION, Array, Program, U, gamma


def programs(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields the programs; `rounding` is the relative error with which the backend reads a product's inputs."""
    yield from _sums(draw)
    yield from _of_narrow_rows(draw, rounding)
    yield from _choices(draw)


def _normal(draw: np.random.Generator, *shape: int) -> Array:
    return draw.normal(0.5, 1.0, shape).astype(np.float32)


def _sums(draw: np.random.Generator) -> Iterator[Program]:
    cases = (
        ("sum over a long axis", (3, 40000), (1,)),
        ("sum over a long leading axis", (40000, 3), (0,)),
        ("sum over a short axis", (8193, 5), (1,)),
        ("sum over two axes", (7, 19, 23), (0, 2)),
        ("sum of everything", (65, 33), (0, 1)),
    )
    for name, shape, axes in cases:

        def compute(x: jax.Array, axes: tuple[int, ...] = axes) -> jax.Array:
            return jnp.sum(x, axis=axes)

        whole = draw.integers(-99, 100, shape).astype(np.float32)  # sums below 2^24 are exact in any order
        yield Program(f"{name}, whole numbers", compute, (whole,), whole.sum(axes))
    x = _normal(draw, 33, 100)
    wide = x.astype(np.float64)
    shift = gamma(101) * np.abs(wide).mean(1)  # error of the mean
    yield Program("mean", lambda x: x.mean(-1), (x,), wide.mean(1), shift)
    yield Program("sum of a row", lambda x: x.sum(-1), (x,), wide.sum(1), gamma(100) * np.abs(wide).sum(1))
    yield Program("variance", lambda x: x.var(-1), (x,), wide.var(1), gamma(105) * wide.var(1) + 2 * shift**2)
    yield Program(
        "cumulative sum", lambda x: jnp.cumsum(x, -1), (x,), wide.cumsum(1), gamma(100) * np.abs(wide).cumsum(1)
    )

    states, mask = _normal(draw, 4, 37, 24), np.arange(37) < np.array([37, 1, 20, 5])[:, None]
    kept = np.where(mask[..., None], states, 0).astype(np.float64)
    count = mask.sum(1)[:, None]
    yield Program(
        "masked mean of tokens",
        lambda states, mask: jnp.sum(jnp.where(mask[..., None], states, 0), 1) / jnp.sum(mask, 1)[:, None],
        (states, mask),
        kept.sum(1) / count,
        gamma(39) * np.abs(kept).sum(1) / count,
    )


def _of_narrow_rows(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    i = np.arange(32769, dtype=np.float32)
    x = np.stack((i, 0 * i, 0 * i), 1)
    square = i.astype(np.float64) ** 2
    yield Program(
        "vmap of the squared sum of a product (jax#39103)",
        jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)),
        (x,),
        square,
        (gamma(9) + 4 * rounding) * square,
    )
    for rows, width in ((1025, 5), (4097, 2), (33, 17)):
        kernel, x = (draw.integers(-5, 6, shape).astype(np.float32) for shape in ((width, width), (rows, width)))

        def energy(kernel: jax.Array, row: jax.Array) -> jax.Array:
            return jnp.sum((kernel @ row) ** 2)

        yield Program(
            f"vmap of the squared sum of a product, {rows} rows of {width} whole numbers",
            jax.vmap(energy, (None, 0)),
            (kernel, x),
            ((x @ kernel.T) ** 2).sum(1),
        )
    kernel, x = _normal(draw, 5, 5), _normal(draw, 65, 5)
    inner, absolute = x.astype(np.float64) @ kernel.T, np.abs(x).astype(np.float64) @ np.abs(kernel).T
    yield Program(
        "gradient of the vmap of a squared sum",
        jax.grad(lambda x, kernel: jnp.sum(jax.vmap(energy, (None, 0))(kernel, x))),
        (x, kernel),
        2 * inner @ kernel,
        (gamma(18) + 4 * rounding) * 2 * absolute @ np.abs(kernel),
    )
    x = _normal(draw, 2049, 3)
    norm = np.sqrt((x.astype(np.float64) ** 2).sum(1))
    yield Program("vmap of norms", jax.vmap(jnp.linalg.norm), (x,), norm, (gamma(6) + FUNCTION) * norm)
    x = draw.integers(-999, 1000, (32769, 3)).astype(np.float32)
    yield Program("vmap of sums", jax.vmap(jnp.sum), (x,), x.sum(1))  # whole numbers below 2^24 are exact


def _choices(draw: np.random.Generator) -> Iterator[Program]:
    x = draw.integers(-9, 10, (9, 129)).astype(np.float32)  # with ties
    yield Program("maximum", lambda x: x.max(-1), (x,), x.max(1))
    yield Program("minimum over rows", lambda x: x.min(0), (x,), x.min(0))
    yield Program("argmax with ties", lambda x: x.argmax(-1).astype(jnp.int32), (x,), x.argmax(1).astype(np.int32))
    yield Program(
        "vmap of argmin", jax.vmap(lambda r: r.argmin().astype(jnp.int32)), (x,), x.argmin(1).astype(np.int32)
    )
    g = _normal(draw, 9)
    ties = x == x.max(1, keepdims=True)
    first = ties * (g / ties.sum(1))[:, None].astype(np.float64)  # jax shares the gradient among ties
    yield Program(
        "gradient of a maximum", jax.grad(lambda x, g: jnp.sum(x.max(-1) * g)), (x, g), first, 8 * U * np.abs(first)
    )
