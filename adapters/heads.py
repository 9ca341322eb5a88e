"""Heads: features [B,F] to logits [B,C], the loss they are trained with, and the decision they make.

Every head is linear in its features, so a fitted probe is a head. `HEADS` finds the code of a spec
by the spec's class.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.methods.method import Array, dropout, select
from adapters.specs import Classification, HeadSpec, MultiLabel, Pooling
from backbone.encoder import Network
from backbone.trees import Params

H = TypeVar("H")


def pool(kind: Pooling, network: Network, backbone: Params, hidden: Array, mask: Array) -> Array:
    """Features [B,D] from finished states [B,T,D]; `mask` bool [B,T]. A row without tokens gives zeros."""
    if kind == "first":
        return hidden[:, 0]
    if kind == "pooler":
        return network.pooled_first(backbone, hidden)
    weights = mask.astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


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
        return (features[:, None, :] @ kernel + bias)[:, 0]

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        """Loss of each row, float32 [B]."""
        raise NotImplementedError

    def probabilities(self, logits: Array | np.ndarray) -> Array:
        """Probabilities [B,C] of each label."""
        raise NotImplementedError

    def decide(self, spec: H, probabilities: np.ndarray) -> np.ndarray:
        """Predicted labels: int [B] or bool [B,C]."""
        raise NotImplementedError


class ClassificationHead(LinearHead[Classification]):
    """Softmax cross-entropy; labels int32 [B]."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def probabilities(self, logits: Array | np.ndarray) -> Array:
        return jax.nn.softmax(logits)

    def decide(self, spec: Classification, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=-1)


class MultiLabelHead(LinearHead[MultiLabel]):
    """Sum over labels of sigmoid cross-entropy; labels float32 [B,C] of 0 and 1."""

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)

    def probabilities(self, logits: Array | np.ndarray) -> Array:
        return jax.nn.sigmoid(logits)

    def decide(self, spec: MultiLabel, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= spec.threshold


HEADS: dict[type, LinearHead[Any]] = {Classification: ClassificationHead(), MultiLabel: MultiLabelHead()}


def head_of(spec: HeadSpec) -> LinearHead[Any]:
    """The code of a head's spec."""
    return HEADS[type(spec)]
