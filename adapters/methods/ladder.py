"""Ladder side network (Sung et al. 2022, arXiv 2206.06522, section 3).

Beside each chosen block k stands a rung of width d = D / reduction. The state h of boundary k+1 is
projected down by P and mixed with the side state s by a gate g = sigmoid(gate): s = g (h P) + (1 - g) s.
Then s passes one post-norm transformer block of width d. The last side state is projected up and added
to the backbone's output, from zero. The backbone is never differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from adapters.block_counts import block_forward
from adapters.methods.method import Array, FeatureMethod, Pool
from adapters.methods.settings import block_range, require_blocks, require_positive
from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, elementwise, product


@dataclass(frozen=True)
class Ladder(FeatureMethod, tag="ladder"):
    """Side network of reduced width fed by the hidden states; never differentiates the backbone.

    Source: Sung et al. 2022 (arXiv 2206.06522), section 3: at rung k the side state is mixed with
    the down-projected backbone state by a learned gate, then passes a small transformer block;
    the result is projected up and added to the backbone's output. The up-projection starts at zero.
    """

    reduction: int = 8  # backbone width divided by side width
    blocks: str = ""  # blocks that have a rung, slice notation

    def __post_init__(self) -> None:
        require_positive(reduction=self.reduction)
        require_blocks(self.blocks)

    def _rungs(self, encoder: EncoderSpec) -> tuple[int, ...]:
        return tuple(block + 1 for block in block_range(self.blocks, encoder.blocks))

    def side_encoder(self, encoder: EncoderSpec) -> EncoderSpec:
        """Returns the architecture of the rungs, one block each: the backbone's, narrower, without embeddings."""
        width = encoder.width // self.reduction
        if width < 4:
            raise InputError(
                f"reduction: {self.reduction} leaves {width} of {encoder.width} units; at least 4 are needed"
            )
        heads = max(h for h in range(1, max(1, width // 16) + 1) if width % h == 0)
        return EncoderSpec(
            blocks=len(self._rungs(encoder)),
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

    def taps(self, encoder: EncoderSpec) -> tuple[int, ...]:
        return tuple(sorted({*self._rungs(encoder), encoder.blocks}))

    def width(self, encoder: EncoderSpec) -> int:
        return encoder.width

    def init(self, encoder: EncoderSpec, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD, Network

        side, rungs = self.side_encoder(encoder), self._rungs(encoder)
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
        self, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array, pool: Pool
    ) -> Array:
        return pool(self.hidden(encoder, params, states, mask))

    def hidden(self, encoder: EncoderSpec, params: Params, states: Mapping[int, Array], mask: Array) -> Array:
        """Returns the sum of the backbone's output and the side network's, [B,T,D]."""
        from backbone.network.encoder import Network

        last = states[encoder.blocks]
        network = Network(self.side_encoder(encoder))
        side = jnp.zeros((), last.dtype)
        for rung, tap in enumerate(self._rungs(encoder)):
            down = params["down"][str(tap)]
            gate = jax.nn.sigmoid(down["gate"]).astype(last.dtype)
            side = gate * (states[tap] @ down["kernel"].astype(last.dtype)) + (1 - gate) * side
            side = network.run_blocks(params, side, mask, start=rung, stop=rung + 1)
        return last + side @ params["up"]["kernel"].astype(last.dtype)

    def cost(self, encoder: EncoderSpec, batch: int, length: int) -> Count:
        side, tokens = self.side_encoder(encoder), batch * length
        mixed = product(tokens, encoder.width, side.width) + elementwise(tokens * side.width, 3)
        up = product(tokens, side.width, encoder.width) + elementwise(tokens * encoder.width, 1)
        return side.blocks * (mixed + block_forward(side, batch, length)) + up

    @classmethod
    def example(cls) -> Self:
        return cls(reduction=4)
