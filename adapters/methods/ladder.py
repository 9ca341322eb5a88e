"""Ladder side network (Sung et al. 2022, arXiv 2206.06522, section 3).

Beside each chosen block k stands a rung of width d = D / reduction: the state of boundary k+1 is
projected down, mixed with the side state by a gate g = sigmoid(gate), s = g (h P) + (1 - g) s, and
passes one post-norm transformer block of width d. The last side state is projected up and added to
the backbone's output, from zero. The backbone is never differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from adapters.block_counts import block_forward
from adapters.methods.method import Array, FeatureMethod, Pool
from adapters.specs import Ladder, block_range
from backbone.encoder import INIT_STD, Network
from backbone.errors import InputError
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, elementwise, product


def side_encoder(spec: Ladder, encoder: EncoderSpec) -> EncoderSpec:
    """The architecture of the rungs: the backbone's, narrower, one block a rung, no embeddings of use."""
    width = encoder.width // spec.reduction
    if width < 4:
        raise InputError(f"reduction: {spec.reduction} leaves {width} of {encoder.width} units; at least 4 are needed")
    heads = max(h for h in range(1, max(1, width // 16) + 1) if width % h == 0)
    return EncoderSpec(
        blocks=len(block_range(spec.blocks, encoder.blocks)),
        width=width,
        heads=heads,
        mlp_width=width * encoder.mlp_width // encoder.width,
        vocabulary=1,
        positions=1,
        segments=0,
        activation=encoder.activation,
        norm_epsilon=encoder.norm_epsilon,
        pooler=False,
    )


class LadderMethod(FeatureMethod[Ladder]):
    spec_type = Ladder

    def _rungs(self, spec: Ladder, encoder: EncoderSpec) -> tuple[int, ...]:
        return tuple(block + 1 for block in block_range(spec.blocks, encoder.blocks))

    def taps(self, spec: Ladder, encoder: EncoderSpec) -> tuple[int, ...]:
        return tuple(sorted({*self._rungs(spec, encoder), encoder.blocks}))

    def width(self, spec: Ladder, encoder: EncoderSpec) -> int:
        return encoder.width

    def init(self, spec: Ladder, encoder: EncoderSpec, rng: Array) -> Params:
        side = side_encoder(spec, encoder)
        rungs = self._rungs(spec, encoder)
        first, *keys = jax.random.split(rng, len(rungs) + 1)
        blocks = Network(side).init(first)["blocks"]
        down = {
            str(tap): {
                "kernel": INIT_STD * jax.random.normal(key, (encoder.width, side.width)),
                "gate": jnp.zeros(()),
            }
            for tap, key in zip(rungs, keys, strict=True)
        }
        return {"down": down, "blocks": blocks, "up": {"kernel": jnp.zeros((side.width, encoder.width))}}

    def features(
        self, spec: Ladder, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        return pool(self.hidden(spec, encoder, params, states, mask))

    def hidden(
        self, spec: Ladder, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array
    ) -> Array:
        """The backbone's output plus the side network's, [B,T,D]."""
        last = states[encoder.blocks]
        network = Network(side_encoder(spec, encoder))
        side = jnp.zeros((), last.dtype)
        for rung, tap in enumerate(self._rungs(spec, encoder)):
            down = params["down"][str(tap)]
            gate = jax.nn.sigmoid(down["gate"]).astype(last.dtype)
            side = gate * (states[tap] @ down["kernel"].astype(last.dtype)) + (1 - gate) * side
            side = network.run_blocks(params, side, mask, start=rung, stop=rung + 1)
        return last + side @ params["up"]["kernel"].astype(last.dtype)

    def work(self, spec: Ladder, encoder: EncoderSpec, batch: int, length: int) -> Count:
        side, tokens = side_encoder(spec, encoder), batch * length
        mixed = product(tokens, encoder.width, side.width) + elementwise(tokens * side.width, 3)
        up = product(tokens, side.width, encoder.width) + elementwise(tokens * encoder.width, 1)
        return side.blocks * (mixed + block_forward(side, batch, length)) + up
