"""Probe: the head reads the pooled states of chosen boundaries, side by side (Alain & Bengio 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from adapters.methods.method import Array, FeatureMethod, Pool
from backbone.errors import InputError
from backbone.lazy import jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params


@dataclass(frozen=True)
class Probe(FeatureMethod, tag="probe"):
    """No parameters in the backbone: the head reads pooled states of chosen boundaries.

    Boundary k is the input of block k, boundary L the final output. The states are pooled as the
    head says and concatenated in ascending order of their boundaries. Never differentiates the backbone.
    """

    fitted: ClassVar[bool] = True
    reads_pooled: ClassVar[bool] = True

    boundaries: tuple[int, ...] = (-1,)  # boundaries read, -1 the last; () = all of 0..L

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
        return jnp.concatenate([pool(states[tap]) for tap in sorted(states)], axis=-1)

    def bank_key(self, encoder: EncoderSpec) -> Any:
        taps = self.taps(encoder)
        return None if taps == (encoder.blocks,) else (self.tag, taps)

    @classmethod
    def example(cls) -> Self:
        return cls()
