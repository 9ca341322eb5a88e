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

    flops: float  # rate of a large product, FLOP/s
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


def measure(dtype: str = "float32") -> Roofline:
    """Measures both ceilings on the default device; factors of the product are of `dtype`.

    Products of bfloat16 are summed in float32, those of int8 in int32, as precisions of a backbone do it.
    """
    sums = jnp.int32 if dtype == "int8" else jnp.float32
    a = jnp.ones((SIDE, SIDE), dtype)
    product = _best(jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=sums)), a)
    stream = _best(jax.jit(lambda x: x * 1.5 + 1.0), jnp.ones(STREAM, jnp.float32))
    return Roofline(2.0 * SIDE**3 / product, 2.0 * 4 * STREAM / stream)
