"""Hooks of a plain block for pruning: masks on what heads and mlp units give, and a record of what went through.

Shape letters: `B` rows, `T` tokens, `D` width, `H` heads of width `d`, `U` mlp units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from backbone.network.sites import ATTENTION_OUTPUT, MLP_DOWN, BlockHooks
from backbone.network.stored import FrozenKernel

Array = jax.Array


@dataclass(frozen=True)
class RowMasks:
    """Hooks that multiply what each head and unit gives by a mask of each row; blocks below `first` have none."""

    heads: Array  # float32 [B,S,H]
    units: Array  # float32 [B,S,U]
    first: int  # first block with masks

    def block(self, index: int, rng: Any | None) -> BlockHooks:
        """Returns the hooks of block `index`."""
        number = index - self.first
        return _Masked(self.heads[:, number], self.units[:, number]) if number >= 0 else BlockHooks()


class _Masked(BlockHooks):
    def __init__(self, heads: Array, units: Array):
        self._heads, self._units = heads, units

    def linear(self, name: str, x: Array, kernel: FrozenKernel, bias: Array | None) -> Array:
        if name == ATTENTION_OUTPUT:
            x = x * jnp.repeat(self._heads, x.shape[-1] // self._heads.shape[-1], axis=-1)[:, None, :]
        if name == MLP_DOWN:
            x = x * self._units[:, None, :]
        return super().linear(name, x, kernel, bias)


@dataclass
class Recorder(BlockHooks):
    """Hooks of one block that keep the inputs and outputs of its linear sites, by name."""

    inputs: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)

    def block(self, index: int, rng: Any | None) -> BlockHooks:
        """Returns itself, whatever the block."""
        return self

    def linear(self, name: str, x: Array, kernel: FrozenKernel, bias: Array | None) -> Array:
        y = super().linear(name, x, kernel, bias)
        self.inputs[name], self.outputs[name] = x, y
        return y
