"""The architecture of an encoder as data. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from backbone.errors import InputError

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class EncoderSpec:
    """A transformer encoder of post-norm blocks with learned absolute positions (BERT)."""

    blocks: int  # L
    width: int  # D, of hidden states
    heads: int  # H; D / H is the head's width
    mlp_width: int  # hidden units of the mlp
    vocabulary: int  # V, token ids 0..V-1
    positions: int  # longest input in tokens
    segments: int = 2  # token types; 0 = none
    position_offset: int = 0  # position id of the first token
    activation: Activation = "gelu"  # of the mlp; gelu is the exact one (erf)
    norm_epsilon: float = 1e-12  # added to the variance in LayerNorm
    pooler: bool = True  # a dense layer with tanh on the first token exists

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads", "mlp_width", "vocabulary", "positions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise InputError(f"heads: {self.heads} does not divide width {self.width}")
        if self.segments < 0 or self.position_offset < 0 or self.norm_epsilon <= 0:
            raise InputError("segments: neither this nor position_offset may be negative; norm_epsilon is positive")
