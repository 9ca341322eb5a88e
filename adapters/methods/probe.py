"""Probe: the head reads the pooled states of chosen boundaries, side by side (Alain & Bengio 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from adapters.methods.method import Array, FeatureMethod, Pool
from backbone.errors import InputError
from backbone.lazy import jnp
from backbone.records import newer
from backbone.spec import EncoderSpec
from backbone.trees import Params

TINY = 1e-6  # added to lengths, so that a state of zeros stays zero


@dataclass(frozen=True)
class Probe(FeatureMethod, tag="probe"):
    """No parameters in the backbone: the head reads pooled states of chosen boundaries.

    Boundary k is the input of block k, boundary L the final output. The states are pooled as the
    head says and concatenated in ascending order of their boundaries. Never differentiates the backbone. With
    `unit`, each of the k pooled states has length 1 / sqrt(k), so that the features have length 1.
    """

    fitted: ClassVar[bool] = True
    reads_pooled: ClassVar[bool] = True

    boundaries: tuple[int, ...] = (-1,)  # boundaries read, -1 the last; () = all of 0..L
    unit: bool = field(default=False, metadata=newer())  # features have length 1, equal parts from each boundary

    def taps(self, encoder: EncoderSpec) -> tuple[int, ...]:
        count = encoder.blocks + 1
        for boundary in self.boundaries:
            if not -count <= boundary < count:
                raise InputError(f"boundaries: {boundary} is not in 0..{encoder.blocks} (or negative from the end)")
        chosen = {boundary % count for boundary in self.boundaries or range(count)}
        return tuple(sorted(chosen))

    def width(self, encoder: EncoderSpec) -> int:
        return encoder.width * len(self.taps(encoder))

    def init(self, encoder: EncoderSpec, rng: Array) -> Params:
        return {}

    def features(
        self, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        pooled = [pool(states[tap]) for tap in sorted(states)]
        if self.unit:
            pooled = [part / (jnp.linalg.norm(part, axis=-1, keepdims=True) + TINY) for part in pooled]
            pooled = [part / len(pooled) ** 0.5 for part in pooled]
        return jnp.concatenate(pooled, axis=-1)

    def of_pooled(self, encoder: EncoderSpec, pooled: np.ndarray) -> np.ndarray:
        chosen = pooled[:, list(self.taps(encoder))]
        if self.unit:
            chosen = chosen / ((np.linalg.norm(chosen, axis=-1, keepdims=True) + TINY) * chosen.shape[1] ** 0.5)
        return chosen.reshape(len(chosen), -1)

    def bank_key(self, encoder: EncoderSpec) -> Any:
        taps = self.taps(encoder)
        if self.unit:
            return (self.tag, taps, "unit")
        return None if taps == (encoder.blocks,) else (self.tag, taps)

    @classmethod
    def example(cls) -> Self:
        return cls()
