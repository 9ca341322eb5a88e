"""Scaled dot-product attention behind one function (Vaswani et al. 2017, equation 1).

The scores are normalised after the product with the values, (exp(s - max) V) / sum, which touches a
[T, D/H] array instead of a [T, T] one; maximum, exponent and sum run in float32 whatever the inputs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def attention(q: Array, k: Array, v: Array, mask: Array, heads: int, window: int = 0) -> Array:
    """Attends from q [B,T,D] to k, v [B,S,D]; returns [B,T,D] in the dtype of q.

    `mask` bool [B, T'] is true on real tokens. Where S exceeds T', the first S - T' keys were
    prepended by an adapter and are always visible. A row with no real token gives finite values.
    `window` limits what a token sees to that many tokens on either side; 0 is no limit.
    """
    batch, tokens, width = q.shape
    depth = width // heads
    q, k, v = (t.reshape(t.shape[0], t.shape[1], heads, depth) for t in (q, k, v))
    prepended = k.shape[1] - mask.shape[1]
    visible = jnp.pad(mask, ((0, 0), (prepended, 0)), constant_values=True)[:, None, None, :]
    if 0 < window < tokens - 1:
        distance = jnp.arange(tokens)[:, None] - (jnp.arange(k.shape[1]) - prepended)
        visible &= (jnp.abs(distance) <= window) | (jnp.arange(k.shape[1]) < prepended)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / math.sqrt(depth)
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1)  # [B,H,T]
    mixed = jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = mixed / total.transpose(0, 2, 1)[..., None]
    return mixed.astype(q.dtype).reshape(batch, tokens, width)


def rotate(x: Array, heads: int, theta: float) -> Array:
    """x [B,T,D] with each head's halves rotated by its position (Su et al. 2021, arXiv 2104.09864, equation 34).

    The angle of token t and pair i is t / theta^(2i/depth); pairs are (i, i + depth/2) of each head.
    """
    batch, tokens, width = x.shape
    depth = width // heads
    frequency = theta ** (-jnp.arange(0, depth, 2, dtype=jnp.float32) / depth)
    angle = jnp.arange(tokens, dtype=jnp.float32)[:, None] * frequency  # [T, depth/2]
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    first, second = jnp.split(x.reshape(batch, tokens, heads, depth).astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype).reshape(batch, tokens, width)
