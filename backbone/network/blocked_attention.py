"""Attention over blocks of keys, in plain XLA: its memory grows with the number of tokens, not with its square.

The forward pass keeps a running maximum and sum for each token (Milakov and Gimelshein 2018, arXiv 1805.02867,
algorithm 3). The backward pass computes the weights of each block again from these two (Dao et al. 2022, arXiv
2205.14135, algorithm 4). The results are those of attention, but for the order of the sums.

Shapes: B rows, T tokens, S keys, H heads, d width of a head, K keys of a block.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

BLOCK = 64  # keys whose scores are in memory at a time
LOWEST = float(np.finfo(np.float32).min)  # score of a key that is not to be seen


@dataclass(frozen=True)
class Sight:
    """The keys that a token may see, apart from padding."""

    tokens: int  # number of tokens
    prepended: int  # keys before the first token's, visible to every token
    window: int  # number of tokens that a token sees on either side; 0: no limit

    def of(self, visible: Array, keys: Array) -> Array:
        """Returns which of `keys` int [K] are seen, bool [B,1,T or 1,K]; `visible` bool [B,K] is false on padding."""
        seen = visible[:, None, None, :]
        if self.window:
            distance = jnp.arange(self.tokens)[:, None] - (keys - self.prepended)
            seen &= (jnp.abs(distance) <= self.window) | (keys < self.prepended)
        return seen


def blocked(q: Array, k: Array, v: Array, visible: Array, *, sight: Sight) -> Array:
    """Computes attention from q [B,T,H,d] to k, v [B,S,H,d] with `visible` bool [B,S]: [B,T,H,d] in the dtype of q."""
    return _attention(q, k, v, visible, sight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q: Array, k: Array, v: Array, visible: Array, sight: Sight) -> Array:
    return _forward(q, k, v, visible, sight)[0]


def _forward(q: Array, k: Array, v: Array, visible: Array, sight: Sight) -> tuple[Array, Any]:
    batch, tokens, heads, depth = q.shape
    first = (
        jnp.zeros((batch, heads, tokens, depth), jnp.float32),  # sum of weighted values
        jnp.full((batch, heads, tokens), LOWEST, jnp.float32),  # largest score
        jnp.zeros((batch, heads, tokens), jnp.float32),  # sum of weights
    )

    def add(carried: tuple[Array, Array, Array], block: tuple[Array, ...]) -> tuple[tuple[Array, Array, Array], None]:
        mixed, largest, total = carried
        scores = _scores(q, block, sight, k.shape[1])
        new = jnp.maximum(largest, scores.max(axis=-1))
        weights, shrunk = jnp.exp(scores - new[..., None]), jnp.exp(largest - new)
        values = jnp.einsum("bhtk,bkhd->bhtd", weights.astype(v.dtype), block[1], preferred_element_type=jnp.float32)
        return (mixed * shrunk[..., None] + values, new, total * shrunk + weights.sum(axis=-1)), None

    (mixed, largest, total), _ = jax.lax.scan(add, first, _blocks(k, v, visible))
    result = (mixed / total[..., None]).astype(q.dtype).transpose(0, 2, 1, 3)
    return result, (q, k, v, visible, result, largest, total)


def _backward(sight: Sight, saved: Any, g: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, visible, result, largest, total = saved
    g = g.astype(jnp.float32)
    along = jnp.einsum("bthd,bthd->bht", g, result.astype(jnp.float32))  # what the normalisation takes from a gradient
    scale, narrow = 1 / math.sqrt(q.shape[-1]), g.astype(v.dtype)

    def add(q_gradient: Array, block: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        weights = jnp.exp(_scores(q, block, sight, k.shape[1]) - largest[..., None]) / total[..., None]
        v_gradient = jnp.einsum("bhtk,bthd->bkhd", weights.astype(v.dtype), narrow, preferred_element_type=jnp.float32)
        by_weight = jnp.einsum("bthd,bkhd->bhtk", narrow, block[1], preferred_element_type=jnp.float32)
        by_score = (weights * (by_weight - along[..., None]) * scale).astype(q.dtype)
        q_gradient += jnp.einsum("bhtk,bkhd->bthd", by_score, block[0], preferred_element_type=jnp.float32)
        k_gradient = jnp.einsum("bhtk,bthd->bkhd", by_score, q, preferred_element_type=jnp.float32)
        return q_gradient, (k_gradient.astype(k.dtype), v_gradient.astype(v.dtype))

    q_gradient, by_block = jax.lax.scan(add, jnp.zeros(q.shape, jnp.float32), _blocks(k, v, visible))
    k_gradient, v_gradient = (_joined(gradient, k.shape[1]) for gradient in by_block)
    return q_gradient.astype(q.dtype), k_gradient, v_gradient, None  # None: no gradient of a mask


_attention.defvjp(_forward, _backward)


def _scores(q: Array, block: tuple[Array, ...], sight: Sight, count: int) -> Array:
    """Returns the scores [B,H,T,K] of q and a block of keys; -inf beyond the last of `count` keys."""
    keys, _, visible, numbers = block
    scores = jnp.einsum("bthd,bkhd->bhtk", q, keys, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    scores = jnp.where(sight.of(visible, numbers), scores, LOWEST)
    return jnp.where(numbers < count, scores, -jnp.inf)


def _blocks(k: Array, v: Array, visible: Array) -> tuple[Array, ...]:
    """Cuts k, v [B,S,H,d], `visible` [B,S] and the keys' numbers into N blocks, N first; the last one is filled up."""
    missing = -k.shape[1] % BLOCK

    def cut(x: Array) -> Array:
        filled = jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(filled.reshape(len(x), -1, BLOCK, *x.shape[2:]), 1, 0)

    return cut(k), cut(v), cut(visible), jnp.arange(k.shape[1] + missing).reshape(-1, BLOCK)


def _joined(blocks: Array, count: int) -> Array:
    """Joins blocks [N,B,K,H,d] to [B,S,H,d], the first `count` keys."""
    joined = jnp.moveaxis(blocks, 0, 1)
    return joined.reshape(len(joined), -1, *blocks.shape[3:])[:, :count]
