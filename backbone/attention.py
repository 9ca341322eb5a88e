"""Scaled dot-product attention behind one function (Vaswani et al. 2017, equation 1).

The scores are normalised after the product with the values, (exp(s - max) V) / sum, which touches a
[T, D/H] array instead of a [T, T] one; maximum, exponent and sum run in float32 whatever the inputs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def attention(q: Array, k: Array, v: Array, mask: Array, heads: int) -> Array:
    """Attends from q [B,T,D] to k, v [B,S,D]; returns [B,T,D] in the dtype of q.

    `mask` bool [B, T'] is true on real tokens. Where S exceeds T', the first S - T' keys were
    prepended by an adapter and are always visible. A row with no real token gives finite values.
    """
    batch, tokens, width = q.shape
    depth = width // heads
    q, k, v = (t.reshape(t.shape[0], t.shape[1], heads, depth) for t in (q, k, v))
    visible = jnp.pad(mask, ((0, 0), (k.shape[1] - mask.shape[1], 0)), constant_values=True)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / math.sqrt(depth)
    scores = jnp.where(visible[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1)  # [B,H,T]
    mixed = jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = mixed / total.transpose(0, 2, 1)[..., None]
    return mixed.astype(q.dtype).reshape(batch, tokens, width)
