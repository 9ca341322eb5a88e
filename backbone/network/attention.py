"""Scaled dot-product attention behind one function (Vaswani et al. 2017, equation 1), computed in one of three ways.

    plain     scores [B,H,T,S] at once, and normalised after the product with the values: (exp(s - max) V) / sum. The
              division then touches an array [T, D/H] instead of one [T, S].
    blocked   over blocks of keys, for more than `PLAIN_KEYS` keys: memory grows with T, not with T S
              (`backbone.network.blocked_attention`).
    fused     cuDNN's kernel, for 16-bit states on an NVIDIA GPU of compute capability 8 or more.

Maximum, exponent and sum run in float32 whatever the inputs. Up to `PLAIN_KEYS` keys, float32 states are computed in
the plain way on every platform. Whatever is stored about rows of that length keeps its bits.

Shapes: B rows, T tokens, S keys, H heads, D width.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from backbone.network.blocked_attention import Sight, blocked
from backbone.network.reductions import missing_rows

Array = jax.Array

PLAIN_KEYS = 512  # most published encoders read no more tokens


def attention(
    q: Array, k: Array, v: Array, mask: Array, heads: int, window: int = 0, *, exact_rows: bool = False
) -> Array:
    """Computes attention from q [B,T,D] to k, v [B,S,D]: [B,T,D] in the dtype of q.

    `mask` bool [B,T'] is true on real tokens. If S exceeds T', an adapter has prepended the first S - T' keys, which
    are always visible. A row without a real token gives finite values. `window` is the number of tokens that a token
    sees on either side; 0 is no limit. With `exact_rows` a row has the same bits beside any number of others.
    """
    missing = missing_rows(q.shape[0], heads * q.shape[1] * k.shape[1]) if exact_rows else 0
    if missing:
        q, k, v, mask = (jnp.pad(t, ((0, missing),) + ((0, 0),) * (t.ndim - 1)) for t in (q, k, v, mask))
        return attention(q, k, v, mask, heads, window)[:-missing]
    batch, tokens, width = q.shape
    depth = width // heads
    q, k, v = (t.reshape(t.shape[0], t.shape[1], heads, depth) for t in (q, k, v))
    keys, prepended = k.shape[1], k.shape[1] - mask.shape[1]
    sight = Sight(tokens, prepended, window if 0 < window < tokens - 1 else 0)
    visible = jnp.pad(mask, ((0, 0), (prepended, 0)), constant_values=True)
    otherwise = functools.partial(_plain if keys <= PLAIN_KEYS else blocked, sight=sight)
    if fits_cudnn(q, k):
        # for another platform the blocked way at any length: what it keeps for a gradient is small, and XLA sees both
        fused, otherwise = (functools.partial(way, sight=sight) for way in (_fused, blocked))
        mixed = jax.lax.platform_dependent(q, k, v, visible, cuda=fused, default=otherwise)
    else:
        mixed = otherwise(q, k, v, visible)
    return mixed.reshape(batch, tokens, width)


def _plain(q: Array, k: Array, v: Array, visible: Array, *, sight: Sight) -> Array:
    """Computes attention from q [B,T,H,D/H] to k, v [B,S,H,D/H] with `visible` bool [B,S]: [B,T,H,D/H]."""
    weights, total = _weights(q, k, visible, sight)
    mixed = jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = mixed / total.transpose(0, 2, 1)[..., None]
    return mixed.astype(q.dtype)


def _weights(q: Array, k: Array, visible: Array, sight: Sight) -> tuple[Array, Array]:
    """Returns the weights of keys [B,H,T,S] before they are normalised, and their sums [B,H,T]; float32."""
    seen = sight.of(visible, jnp.arange(k.shape[1]))
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    return weights, weights.sum(axis=-1)


def received(q: Array, k: Array, mask: Array, heads: int, *, exact_rows: bool = False) -> Array:
    """Computes the attention that each token receives, float32 [B,T], from q [B,T,D] and k [B,S,D].

    It is the sum of the weights that all real tokens give it in all heads, the significance of Goyal et al. 2020
    (PoWER-BERT, arXiv 2001.08950, section 3.2). Beside the plain way of `attention`, the compiler computes the weights
    once for both. `mask` and `exact_rows` are those of `attention`.
    """
    missing = missing_rows(q.shape[0], heads * q.shape[1] * k.shape[1]) if exact_rows else 0
    if missing:
        q, k, mask = (jnp.pad(t, ((0, missing),) + ((0, 0),) * (t.ndim - 1)) for t in (q, k, mask))
        return received(q, k, mask, heads)[:-missing]
    prepended = k.shape[1] - mask.shape[1]
    q, k = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k))
    visible = jnp.pad(mask, ((0, 0), (prepended, 0)), constant_values=True)
    weights, total = _weights(q, k, visible, Sight(q.shape[1], prepended, 0))
    shares = weights / total[..., None] * mask[:, None, :, None]
    return shares.sum(axis=(1, 2))[:, prepended:] * mask


def _fused(q: Array, k: Array, v: Array, visible: Array, *, sight: Sight) -> Array:
    """Computes the same by cuDNN's kernel, which takes no scores to memory."""
    seen = sight.of(visible, jnp.arange(k.shape[1]))
    seen = jnp.broadcast_to(seen, (len(q), 1, q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="cudnn")


def fits_cudnn(q: Array, k: Array) -> bool:
    """Returns whether cuDNN's kernel takes q [B,T,H,D/H] and k [B,S,H,D/H], and its gradient, on this machine."""
    even = q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    depth = q.shape[-1]
    return q.dtype in (jnp.bfloat16, jnp.float16) and even and depth % 8 == 0 and depth <= 128 and has_cudnn()


@functools.cache
def has_cudnn() -> bool:
    """Returns whether jax runs on an NVIDIA GPU here whose compute capability is 8 or more.

    jax asks cuDNN for its version when it traces the call. A program for CUDA that is lowered on another machine
    therefore holds the plain or the blocked way. Here, a program of 16-bit states is lowered for one platform only.
    """
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(getattr(device, "compute_capability", 0)) >= 8


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
