"""A BERT with fresh weights, random or with heads that look at a token's neighbours. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from backbone.errors import InputError
from backbone.spec import EncoderSpec
from trainers.pretraining.networks.network import NewNetwork, require_sizes

if TYPE_CHECKING:
    from jax import Array

    from backbone.network.encoder import Network
    from backbone.storage import Preprocessing
    from backbone.trees import Params


@dataclass(frozen=True)
class NewBert(NewNetwork, tag="bert"):
    """A BERT without a pooler; vocabulary and longest input come from the tokenizer and the corpus."""

    reads = "text"
    layout = "bert"

    blocks: int = 4  # L
    width: int = 256  # D
    heads: int = 4  # attention heads
    mlp_width: int = 1024  # hidden units of the mlp
    first_weights: Literal["random", "local"] = "random"  # local: heads of block 0 begin at neighbours; for short runs

    def __post_init__(self) -> None:
        require_sizes(self)
        if self.first_weights == "local" and self.width < 2 * self.heads:
            shared = f"{self.heads} heads share a width of {self.width}"
            raise InputError(f"first_weights: local needs heads of at least 2 dimensions; {shared}")

    def spec(self, preprocessing: Preprocessing) -> EncoderSpec:
        return EncoderSpec(
            blocks=self.blocks,
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            vocabulary=preprocessing.vocabulary,
            positions=preprocessing.max_tokens,
            pooler=False,
        )

    def init_weights(self, network: Network, rng: Array) -> Params:
        from backbone.network.local_start import start_locally

        params = network.init(rng)
        return start_locally(network.spec, params) if self.first_weights == "local" else params
