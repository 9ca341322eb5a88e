"""Heads: features [B,F] to logits [B,C], the loss they are trained with, and the decision they make.

Every head is linear in its features, so a fitted probe is a head. Tagging has features [B,T,F] and logits
[B,T,C], one for each token. `HEADS` finds the code of a spec by the spec's class.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from adapters.methods.method import Array, dropout, select
from adapters.specs import Classification, HeadSpec, MultiLabel, Regression, TokenTagging
from adapters.tagging import NO_TAG
from backbone.encoder import Network
from backbone.trees import Params

H = TypeVar("H")

MOST = 80.0  # of a logit's size: beyond it a sigmoid is 0 or 1 in float32, and exp overflows


def pool(
    kind: str, network: Network, backbone: Params, hidden: Array, mask: Array, query: Array | None = None
) -> Array:
    """Features [B,D] from finished states [B,T,D]; `mask` bool [B,T]. A row without tokens gives zeros.

    `attention`: softmax over tokens of hidden . query / sqrt(D), query [D] or [B,1,D]; at a query of zero,
    where it starts, and without one it is the mean. `tokens` leaves the states as they are.
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


def join_sides(kind: str, features: Array) -> Array:
    """Features of pairs from those of their sides [2B,F], side by side: [B,4F], or [B,1] for `cosine`."""
    u, v = features[0::2], features[1::2]
    if kind == "two_tower":
        return jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=-1)
    norms = jnp.linalg.norm(u, axis=-1) * jnp.linalg.norm(v, axis=-1)
    return ((u * v).sum(axis=-1) / jnp.maximum(norms, 1e-9))[:, None]


class LinearHead(Generic[H]):
    """Kernel [F,C] and bias [C], zero at the start."""

    def init(self, width: int, labels: int) -> Params:
        return {"kernel": jnp.zeros((width, labels)), "bias": jnp.zeros((labels,))}

    def logits(self, spec: Any, params: Params, features: Array, slots: Array | None, rng: Array | None) -> Array:
        """Logits float32 [B,C]."""
        features = dropout(features.astype(jnp.float32), spec.dropout, rng)
        kernel, bias = select(params["kernel"], slots), select(params["bias"], slots)
        if slots is None:
            return features @ kernel + bias
        return features @ kernel + bias if features.ndim == 3 else (features[:, None, :] @ kernel + bias)[:, 0]

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        """Loss of each row, float32 [B]."""
        raise NotImplementedError

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """`loss` by NumPy, for rows in any number: a program for each would take longer to compile than to run."""
        raise NotImplementedError

    def probabilities(self, logits: Any) -> Any:
        """Probabilities float32 [B,C] of each label, by the library of the logits: NumPy's stay on the host."""
        raise NotImplementedError

    def decide(self, spec: H, probabilities: np.ndarray) -> np.ndarray:
        """Predicted labels: int [B] or bool [B,C]; numbers float [B]; tags int [B,T]."""
        raise NotImplementedError


class ClassificationHead(LinearHead[Classification]):
    """Softmax cross-entropy; labels int32 [B]."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return _cross_entropy(logits, labels)

    def probabilities(self, logits: Any) -> Any:
        return _softmax(logits)

    def decide(self, spec: Classification, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=-1)


class MultiLabelHead(LinearHead[MultiLabel]):
    """Sum over labels of sigmoid cross-entropy; labels float32 [B,C] of 0 and 1."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray((np.logaddexp(0, logits) - labels * logits).sum(axis=-1))

    def probabilities(self, logits: Any) -> Any:
        of = logits.__array_namespace__()
        return 1 / (1 + of.exp(-of.clip(logits, -MOST, MOST)))

    def decide(self, spec: MultiLabel, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= spec.threshold


class RegressionHead(LinearHead[Regression]):
    """Squared error; labels float32 [B] and logits [B,1] in units of the target's spread."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return jnp.square(logits[:, 0] - labels)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(logits[:, 0] - labels))

    def probabilities(self, logits: Any) -> Any:
        return logits

    def decide(self, spec: Regression, probabilities: np.ndarray) -> np.ndarray:
        return in_units(spec, np.asarray(probabilities, float)[:, 0])


def in_units(spec: Regression, standard: np.ndarray) -> np.ndarray:
    """Numbers in the target's units from those that the head is trained on."""
    return (spec.center or 0.0) + (1.0 if spec.spread is None else spec.spread) * standard


class TokenTaggingHead(LinearHead[TokenTagging]):
    """Softmax cross-entropy, mean over a row's words; labels int32 [B,T], `NO_TAG` between words."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        words = labels != NO_TAG
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(words, labels, 0))
        return jnp.where(words, losses, 0).sum(axis=-1) / jnp.maximum(words.sum(axis=-1), 1)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        words = labels != NO_TAG
        losses = np.where(words, _cross_entropy(logits, np.where(words, labels, 0)), 0)
        return np.asarray(losses.sum(axis=-1) / np.maximum(words.sum(axis=-1), 1))

    def probabilities(self, logits: Any) -> Any:
        return _softmax(logits)

    def decide(self, spec: TokenTagging, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=-1)


def _softmax(logits: Any) -> Any:
    of = logits.__array_namespace__()
    raised = of.exp(logits - of.max(logits, axis=-1, keepdims=True))
    return raised / of.sum(raised, axis=-1, keepdims=True)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of logits [...,C] and labels int [...]."""
    chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return np.asarray(scipy.special.logsumexp(logits, axis=-1) - chosen)


HEADS: dict[type, LinearHead[Any]] = {
    Classification: ClassificationHead(),
    MultiLabel: MultiLabelHead(),
    Regression: RegressionHead(),
    TokenTagging: TokenTaggingHead(),
}


def head_of(spec: HeadSpec) -> LinearHead[Any]:
    """The code of a head's spec."""
    return HEADS[type(spec)]
