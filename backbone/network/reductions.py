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


def last_mean(x: Array, *, exact_rows: bool) -> Array:
    """Computes the means of x [..., N] along its last axis: [..., 1]."""
    missing = FEW - x.size
    if not exact_rows or missing <= 0:
        return x.mean(axis=-1, keepdims=True)
    rows = x.reshape(-1, x.shape[-1])
    filled = jnp.pad(rows, ((0, -(-missing // x.shape[-1])), (0, 0)))
    filled = jax.lax.optimization_barrier(filled)  # type: ignore[no-untyped-call]  # else XLA leaves the zeros out again
    return filled.mean(axis=-1)[: len(rows)].reshape(*x.shape[:-1], 1)
