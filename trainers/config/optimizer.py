"""The optimiser of an experiment. Imports no jax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from backbone.errors import InputError


@dataclass(frozen=True)
class Optimizer:
    """AdamW on the live parameters, with warm-up, decay, accumulation and clipping (optax)."""

    learning_rate: float = 1e-3  # peak learning rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # shape of the decay to zero after warm-up
    warmup_fraction: float = 0.0  # share of all optimiser steps that warm up
    weight_decay: float = 0.0  # decoupled weight decay, on matrices only
    clip_norm: float = 0.0  # greatest global norm of the live gradients; 0 = no clipping
    accumulate: int = 1  # micro-batches per optimiser step

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate: must be a positive number, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"warmup_fraction: must be at least 0 and below 1, got {self.warmup_fraction}")
        if self.weight_decay < 0 or self.clip_norm < 0:
            raise InputError("weight_decay: neither this nor clip_norm may be negative")
        if self.accumulate < 1:
            raise InputError(f"accumulate: must be at least 1, got {self.accumulate}")
