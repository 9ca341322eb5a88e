"""Scaled dot-product attention behind one function (Vaswani et al. 2017, equation 1).

The scores are normalised after the product with the values, (exp(s - max) V) / sum. The division then touches an
array [T, D/H] instead of one [T, T]. Maximum, exponent and sum run in float32 whatever the inputs.

Shapes: B rows, T tokens, S keys, H heads, D width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def attention(
    q: Array, k: Array, v: Array, mask: Array, heads: int, window: int = 0, *, exact_rows: bool = False
) -> Array:
    """Computes attention from q [B,T,D] to k, v [B,S,D]: [B,T,D] in the dtype of q.

    `mask` bool [B,T'] is true on real tokens. If S exceeds T', an adapter has prepended the first S - T' keys, which
    are always visible. A row without a real token gives finite values. `window` is the number of tokens that a token
    sees on either side; 0 is no limit. With `exact_rows` a row that is alone has the bits that it has among others.
    """
    if exact_rows and q.shape[0] == 1:  # XLA drops a batch axis of one, and then adds up in another order
        q, k, v, mask = (jnp.concatenate([t, t]) for t in (q, k, v, mask))
        return attention(q, k, v, mask, heads, window)[:1]
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
    """Rotates each head's pairs of x [B,T,D] by the token's position (Su et al. 2021, arXiv 2104.09864, equation 34).

    The angle of token t and pair i is t / theta^(2i/depth). Pair i of a head are its dimensions i and i + depth/2.
    """
    batch, tokens, width = x.shape
    depth = width // heads
    frequency = theta ** (-jnp.arange(0, depth, 2, dtype=jnp.float32) / depth)
    angle = jnp.arange(tokens, dtype=jnp.float32)[:, None] * frequency  # [T, depth/2]
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    first, second = jnp.split(x.reshape(batch, tokens, heads, depth).astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype).reshape(batch, tokens, width)
