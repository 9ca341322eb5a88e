"""Means along the last axis that give a row the same bits beside any number of rows.

On a CPU, XLA of jax 0.11 leaves reductions of many numbers to YNNPACK, and computes those of few itself, otherwise.
A trunk with exact rows (`backbone.network.stored.has_exact_rows`) fills few rows up with zeros, so that they take the
same way.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

FEW = 4096  # numbers from which XLA leaves a reduction to YNNPACK


def missing_rows(rows: int, numbers: int) -> int:
    """Returns how many rows of `numbers` to reduce are missing to two, and to `FEW` numbers.

    None are where a program is traced for an unknown number of rows.
    """
    known = isinstance(rows, int) and isinstance(numbers, int)
    return max(max(2, -(-FEW // numbers)) - rows, 0) if known else 0


def last_mean(x: Array, *, exact_rows: bool) -> Array:
    """Computes the means of x [..., N] along its last axis: [..., 1]."""
    rows = x.reshape(-1, x.shape[-1])
    missing = missing_rows(*rows.shape) if exact_rows else 0
    if not missing:
        return x.mean(axis=-1, keepdims=True)
    filled = jnp.pad(rows, ((0, missing), (0, 0)))
    filled = jax.lax.optimization_barrier(filled)  # type: ignore[no-untyped-call]  # else XLA leaves the zeros out again
    means: Array = filled.mean(axis=-1)[:-missing]
    return means.reshape(*x.shape[:-1], 1)
