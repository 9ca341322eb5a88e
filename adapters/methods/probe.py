"""Probe: the head reads the pooled states of chosen boundaries, side by side (Alain & Bengio 2016)."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from adapters.methods.method import Array, FeatureMethod, Pool
from adapters.specs import Probe
from backbone.errors import InputError
from backbone.spec import EncoderSpec
from backbone.trees import Params


class ProbeMethod(FeatureMethod[Probe]):
    spec_type = Probe

    def taps(self, spec: Probe, encoder: EncoderSpec) -> tuple[int, ...]:
        count = encoder.blocks + 1
        for boundary in spec.boundaries:
            if not -count <= boundary < count:
                raise InputError(f"boundaries: {boundary} is not in 0..{encoder.blocks} (or negative from the end)")
        chosen = {boundary % count for boundary in spec.boundaries or range(count)}
        return tuple(sorted(chosen))

    def width(self, spec: Probe, encoder: EncoderSpec) -> int:
        return encoder.width * len(self.taps(spec, encoder))

    def init(self, spec: Probe, encoder: EncoderSpec, rng: Array) -> Params:
        return {}

    def features(
        self, spec: Probe, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        return jnp.concatenate([pool(states[tap]) for tap in sorted(states)], axis=-1)
