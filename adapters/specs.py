"""Every method and head under one name, for config scripts: `from adapters.specs import Classification, Lora`.

A method's settings lie in its own file in `adapters.methods`. Importing this module imports no jax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from adapters.methods.bias import Bias
from adapters.methods.bottleneck import Bottleneck
from adapters.methods.dora import Dora
from adapters.methods.ia3 import IA3
from adapters.methods.ladder import Ladder
from adapters.methods.lora import Lora, LoraOverride
from adapters.methods.method import Method, above
from adapters.methods.norm import Norm
from adapters.methods.prefix import Prefix
from adapters.methods.probe import Probe
from adapters.methods.router import Router
from adapters.methods.settings import block_range
from adapters.methods.settings import require_fraction as _fraction
from adapters.methods.settings import require_positive as _positive
from adapters.methods.ssf import SSF
from adapters.methods.vera import Vera
from backbone.errors import InputError

__all__ = [
    "IA3",
    "SSF",
    "Bias",
    "Bottleneck",
    "Classification",
    "Dora",
    "HeadSpec",
    "Ladder",
    "Lora",
    "LoraOverride",
    "Method",
    "MultiLabel",
    "Norm",
    "Pair",
    "Pooling",
    "Prefix",
    "Probe",
    "Regression",
    "Router",
    "TokenTagging",
    "Vera",
    "above",
    "block_range",
]

Pooling: TypeAlias = Literal["mean", "first", "pooler", "attention"]
Pair: TypeAlias = Literal["none", "cross", "two_tower", "cosine"]
# of two texts: read as one row; or each encoded apart, u and v, and the head reads [u, v, |u-v|, u v]
# (Reimers & Gurevych 2019, arXiv 1908.10084) or their cosine alone


@dataclass(frozen=True)
class Classification:
    """One label per example: logits [B, C] = dropout(pool(hidden)) W + b, softmax cross-entropy."""

    kind: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "matthews")  # that can decide in training
    pooling: Pooling = "mean"  # mean over tokens, first token, the backbone's own pooler, or a learned query
    pair: Pair = "none"  # how data.text and data.text_pair are read
    dropout: float = 0.0  # probability on the pooled features, in training only

    def __post_init__(self) -> None:
        _fraction(dropout=self.dropout)


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels per example: logits [B, C], sigmoid cross-entropy per label."""

    kind: ClassVar[str] = "multi_label"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "average_precision")
    pooling: Pooling = "mean"  # mean over tokens, first token, the backbone's own pooler, or a learned query
    pair: Pair = "none"  # how data.text and data.text_pair are read
    dropout: float = 0.0  # probability on the pooled features, in training only
    threshold: float = 0.5  # a label is predicted at or above this probability

    def __post_init__(self) -> None:
        _fraction(dropout=self.dropout)
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: must lie between 0 and 1, got {self.threshold}")


@dataclass(frozen=True)
class Regression:
    """A number per example: y = center + spread (dropout(pool(hidden)) W + b), squared error.

    The head is trained on (y - center) / spread, so that a learning rate suits targets of any size;
    predictions and metrics are in the target's own units.
    """

    kind: ClassVar[str] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    pooling: Pooling = "mean"  # mean over tokens, first token, the backbone's own pooler, or a learned query
    pair: Pair = "none"  # how data.text and data.text_pair are read
    dropout: float = 0.0  # probability on the pooled features, in training only
    center: float | None = None  # none: mean of the train rows' targets
    spread: float | None = None  # none: their standard deviation

    def __post_init__(self) -> None:
        _fraction(dropout=self.dropout)
        if self.spread is not None:
            _positive(spread=self.spread)
        if self.center is not None and not math.isfinite(self.center):
            raise InputError(f"center: must be a number, got {self.center}")


@dataclass(frozen=True)
class TokenTagging:
    """A BIO tag per word: logits [B, T, C] = dropout(hidden) W + b, softmax cross-entropy at first sub-words.

    A row's loss is the mean over its words.
    """

    kind: ClassVar[str] = "token_tagging"
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "accuracy")
    pooling: ClassVar[str] = "tokens"  # the head reads every token's state
    pair: ClassVar[str] = "none"
    dropout: float = 0.0  # probability on the states, in training only

    def __post_init__(self) -> None:
        _fraction(dropout=self.dropout)


HeadSpec: TypeAlias = Classification | MultiLabel | Regression | TokenTagging
