"""Loops and branches: scans, `while`, `fori`, `cond`, and the gradient of a scan.

Shapes: T steps, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from metering.known_answers.program import Array, Program, gamma

KEPT = 0.9375  # share of the state that a step keeps; exact in float32


def programs(draw: np.random.Generator, rounding: float) -> Iterator[Program]:
    """Yields the programs; `rounding` is the relative error with which the backend reads a product's inputs."""
    steps, width = 64, 6
    x = draw.normal(size=(steps, width)).astype(np.float32)
    right, size = _decayed(x.astype(np.float64)), _decayed(np.abs(x).astype(np.float64))

    def scanned(x: jax.Array) -> jax.Array:
        def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = KEPT * state + row
            return state, state

        return jax.lax.scan(step, jnp.zeros(width), x)[1]

    yield Program("scan", scanned, (x,), right, gamma(2 * steps) * size)
    weights = KEPT ** np.arange(steps)[::-1]
    g = draw.normal(size=width).astype(np.float32)
    yield Program(
        "gradient of a scan",
        jax.grad(lambda x, g: jnp.sum(scanned(x)[-1] * g)),
        (x, g),
        weights[:, None] * g,
        gamma(2 * steps) * weights[:, None] * np.abs(g),
    )
    kernel = (draw.normal(size=(5, 4, 4)) / 2).astype(np.float32)
    start = draw.normal(size=(3, 4)).astype(np.float32)
    right, size = start.astype(np.float64), np.abs(start).astype(np.float64)
    for layer in kernel.astype(np.float64):
        right, size = right @ layer, size @ np.abs(layer)
    yield Program(
        "scan of products",
        lambda start, kernel: jax.lax.scan(lambda h, w: (h @ w, None), start, kernel)[0],
        (start, kernel),
        right,
        (gamma(5 * 4) + 10 * rounding) * size,
    )
    first = np.arange(1, 40, dtype=np.int32)
    yield Program(
        "vmap of a while loop", jax.vmap(_halvings), (first,), np.array([_collatz(int(n)) for n in first], np.int32)
    )
    yield Program(
        "loop of a fixed number of steps",
        lambda n: jax.lax.fori_loop(0, 10, lambda i, total: total * 3 + i, n),
        (first,),
        _repeated(first),
    )
    even = np.where(first % 2 == 0, first // 2, 3 * first + 1)
    yield Program(
        "branches", jax.vmap(lambda n: jax.lax.cond(n % 2 == 0, lambda: n // 2, lambda: 3 * n + 1)), (first,), even
    )


def _decayed(x: Array) -> Array:
    states, state = np.zeros_like(x), np.zeros(x.shape[1])
    for i, row in enumerate(x):
        state = KEPT * state + row
        states[i] = state
    return states


def _halvings(first: jax.Array) -> jax.Array:
    """Returns the steps of Collatz' sequence until it is at one."""

    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        n, count = state
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    count: jax.Array = jax.lax.while_loop(lambda state: state[0] != 1, step, (first, jnp.int32(0)))[1]
    return count


def _collatz(n: int) -> int:
    count = 0
    while n != 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return count


def _repeated(first: Array) -> Array:
    """Returns what ten steps of three times the total plus the number of the step make of it."""
    total = first.copy()
    for i in range(10):
        total *= 3
        total += i
    return total
