"""Cross-entropy over a large vocabulary by chunks of rows: no array of all rows and the whole vocabulary.

The logits of a chunk are made, turned into the loss and its gradient, and dropped. A gradient is linear in that of the
sum, so the forward pass computes both at once and the backward pass scales them: no product is computed twice. Source:
Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989), section 3.2, "FusedLinearCrossEntropy".

Shapes: N rows, C rows of a chunk, E width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Array = jax.Array
Sums: TypeAlias = tuple[Array, Array, Array]  # the loss, and the gradients of table and bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked_cross_entropy(chunk: int, y: Array, table: Array, bias: Array, targets: Array, weights: Array) -> Array:
    """Computes the sum over rows of weight times cross-entropy, float32, of logits y W^T + b.

    `y` [N,E], `table` W [V,E], `bias` b [V], `targets` int32 [N], `weights` float32 [N]; `chunk` is C. Products are in
    the dtype of y. `weights` have no gradient.
    """
    rows = _chunks(chunk, y, targets, weights)

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        y, targets, weights = part
        return total + _losses(y, table, bias, targets, weights)[0], None

    return jax.lax.scan(add, jnp.zeros((), jnp.float32), rows)[0]


def _forward(
    chunk: int, y: Array, table: Array, bias: Array, targets: Array, weights: Array
) -> tuple[Array, tuple[Array, ...]]:
    def add(sums: Sums, part: tuple[Array, ...]) -> tuple[Sums, Array]:
        total, to_table, to_bias = sums
        y, targets, weights = part
        loss, shares = _losses(y, table, bias, targets, weights)
        hot = jnp.arange(len(table)) == targets[:, None]
        g = (shares - hot) * weights[:, None]  # [C,V], of the logits
        narrow, wide = g.astype(y.dtype), {"preferred_element_type": jnp.float32}
        to_table += jnp.einsum("nv,ne->ve", narrow, y, **wide)
        to_y = jnp.einsum("nv,ve->ne", narrow, table.astype(y.dtype), **wide)
        return (total + loss, to_table, to_bias + g.sum(axis=0)), to_y.astype(y.dtype)

    start = jnp.zeros((), jnp.float32), jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)
    (total, to_table, to_bias), to_y = jax.lax.scan(add, start, _chunks(chunk, y, targets, weights))
    to_y = to_y.reshape(-1, y.shape[-1])[: len(y)]
    return total, (to_y, to_table.astype(table.dtype), to_bias.astype(bias.dtype))


def _backward(chunk: int, saved: tuple[Array, ...], g: Array) -> tuple[Any, ...]:
    return *((g * part).astype(part.dtype) for part in saved), None, None


chunked_cross_entropy.defvjp(_forward, _backward)


def _chunks(chunk: int, *rows: Array) -> tuple[Array, ...]:
    """Cuts arrays [N,...] into [N/C,C,...], filled up with zeros; a row of zeros has no weight."""
    missing = -len(rows[0]) % chunk
    return tuple(
        jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)]).reshape(-1, chunk, *array.shape[1:])
        for array in rows
    )


def _losses(y: Array, table: Array, bias: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Computes the weighted loss of a chunk, and its probabilities float32 [C,V]."""
    logits = jnp.einsum("ne,ve->nv", y, table.astype(y.dtype), preferred_element_type=jnp.float32)
    logits += bias.astype(jnp.float32)
    largest = logits.max(axis=-1, keepdims=True)
    powers = jnp.exp(logits - largest)
    total = powers.sum(axis=-1, keepdims=True)
    of_target = jnp.take_along_axis(logits, targets[:, None], axis=-1)
    losses = (jnp.log(total) + largest - of_target)[:, 0]
    return (losses * weights).sum(), powers / total
