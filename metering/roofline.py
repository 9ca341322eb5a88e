"""The ceilings of this machine: peak rate of products and of memory traffic, measured in a second.

A computation of intensity I FLOP per byte runs at most at min(peak, I x bandwidth) (Williams et al. 2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

SIDE = 2048  # rows and columns of the square product
STREAM = 2**25  # elements of the array that is streamed: 128 MiB of float32, beyond any cache
REPEATS = 5  # runs of each, of which the fastest counts


@dataclass(frozen=True)
class Roofline:
    """Measured ceilings."""

    flops: float  # rate of a large float32 product, FLOP/s
    bandwidth: float  # rate of reading one array and writing another, bytes/s

    @property
    def ridge(self) -> float:
        """Returns the intensity, FLOP per byte, from which products are no longer limited by memory."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Returns the largest rate at this intensity, FLOP/s."""
        return min(self.flops, intensity * self.bandwidth)


def _best(function: Callable[..., Any], *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))  # type: ignore[no-untyped-call]
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure() -> Roofline:
    """Measures both ceilings on the default device."""
    a = jnp.ones((SIDE, SIDE), jnp.float32)
    product = _best(jax.jit(lambda x: x @ x), a)
    stream = _best(jax.jit(lambda x: x * 1.5 + 1.0), jnp.ones(STREAM, jnp.float32))
    return Roofline(2.0 * SIDE**3 / product, 2.0 * 4 * STREAM / stream)
