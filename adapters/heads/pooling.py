"""Pooling: the finished states of a row's tokens to the features that a head reads.

Shape letters: `B` rows, `T` tokens, `D` width, `F` features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from backbone.lazy import jax, jnp

if TYPE_CHECKING:
    from jax import Array

    from backbone.network.encoder import Network
    from backbone.trees import Params

# mean over tokens, first token, the backbone's own pooler, or a learned query
Pooling: TypeAlias = Literal["mean", "first", "pooler", "attention"]
# of two texts: read as one row; or each encoded apart, u and v, and the head reads [u, v, |u-v|, u v]
# (Reimers & Gurevych 2019, arXiv 1908.10084) or their cosine alone
Pair: TypeAlias = Literal["none", "cross", "two_tower", "cosine"]


def pool(
    kind: str, network: Network, backbone: Params, hidden: Array, mask: Array, query: Array | None = None
) -> Array:
    """Returns features [B,D] of finished states [B,T,D]; `mask` bool [B,T]. A row without tokens gives zeros.

    `attention` is a softmax over tokens of hidden . query / sqrt(D), query [D] or [B,1,D]. A query of zero, its first
    value, gives the mean; so does no query. `tokens` leaves the states as they are.
    """
    if kind == "tokens":
        return hidden
    if kind == "attention" and query is not None:
        scores = (hidden.astype(jnp.float32) * query).sum(axis=-1) / hidden.shape[-1] ** 0.5
        shares = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1) * mask
        return jnp.einsum("bt,btd->bd", shares.astype(hidden.dtype), hidden)
    if kind == "first":
        return hidden[:, 0]
    if kind == "pooler":
        return network.pooled_first(backbone, hidden)
    weights = mask.astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


def join_sides(pair: str, features: Array) -> Array:
    """Returns features of pairs from those of their sides [2B,F], which alternate: [B,4F], or [B,1] for `cosine`."""
    u, v = features[0::2], features[1::2]
    if pair == "two_tower":
        return jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=-1)
    norms = jnp.linalg.norm(u, axis=-1) * jnp.linalg.norm(v, axis=-1)
    return ((u * v).sum(axis=-1) / jnp.maximum(norms, 1e-9))[:, None]
