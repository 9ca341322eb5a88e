"""A BERT with fresh weights, random or with heads that look at a token's neighbours. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backbone.errors import InputError
from backbone.records import newer
from backbone.spec import Activation, EncoderSpec, NormFunction
from trainers.pretraining.networks.network import NewNetwork, require_sizes

if TYPE_CHECKING:
    from jax import Array

    from backbone.network.encoder import Network
    from backbone.storage import Preprocessing
    from backbone.trees import Params


@dataclass(frozen=True)
class NewBert(NewNetwork, tag="bert"):
    """A BERT without a pooler; vocabulary and longest input come from the tokenizer and the corpus.

    The fields below `first_weights` make it leaner or another kind of encoder; by default it is BERT.
    """

    reads = "text"
    layout = "bert"

    blocks: int = 4  # L
    width: int = 256  # D
    heads: int = 4  # attention heads
    mlp_width: int = 1024  # hidden units of the mlp
    first_weights: Literal["random", "local"] = "random"  # local: heads of block 0 begin at neighbours; for short runs
    groups: int = field(default=0, metadata=newer())  # sets of weights, each for blocks in a row; 0: one a block
    embedding_width: int = field(default=0, metadata=newer())  # width of embeddings below a projection; 0: none
    kv_heads: int = field(default=0, metadata=newer())  # heads of keys and values, shared by queries; 0: as many
    mlp_rank: int = field(default=0, metadata=newer())  # rank of both kernels of the mlp; 0: whole kernels
    activation: Activation = field(default="gelu", metadata=newer())  # function of the mlp
    norm_function: NormFunction = field(default="layer", metadata=newer())  # rms: no mean is subtracted
    norm: Literal["post", "pre"] = field(default="post", metadata=newer())  # place of the norms in a block
    mlp: Literal["dense", "gated"] = field(default="dense", metadata=newer())  # gated: two kernels below the activation
    rotary_theta: float = field(default=0.0, metadata=newer())  # base of rotary positions; 0: a learned table

    def __post_init__(self) -> None:
        require_sizes(self)
        self._spec(vocabulary=1, positions=1)
        if self.first_weights == "local":
            self._check_local()

    def _check_local(self) -> None:
        """Raises InputError for an architecture in which a head cannot begin at a token's neighbours."""
        if self.width < 2 * self.heads:
            shared = f"{self.heads} heads share a width of {self.width}"
            raise InputError(f"first_weights: local needs heads of at least 2 dimensions; {shared}")
        if self.rotary_theta or self.norm == "pre":
            raise InputError("first_weights: local needs learned positions and norm=post; set random")
        if 0 < self.embedding_width < self.width // self.heads:
            raise InputError(
                f"first_weights: local needs embeddings as wide as a head of {self.width // self.heads}, got "
                f"embedding_width={self.embedding_width}; set random"
            )

    def family(self) -> str:
        if (self.norm, self.mlp, self.rotary_theta) != ("post", "dense", 0.0):
            return ""
        if self.groups and self.embedding_width:
            return "albert" if self.is_plain(but="groups") else ""
        return "" if self.embedding_width else super().family()

    def spec(self, preprocessing: Preprocessing) -> EncoderSpec:
        return self._spec(preprocessing.vocabulary, preprocessing.max_tokens)

    def _spec(self, vocabulary: int, positions: int) -> EncoderSpec:
        return EncoderSpec(
            blocks=self.blocks,
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            vocabulary=vocabulary,
            positions=positions,
            pooler=False,
            norm=self.norm,
            mlp=self.mlp,
            rotary_theta=self.rotary_theta,
            embedding_width=self.embedding_width,
            **self.parts(),
        )

    def init_weights(self, network: Network, rng: Array) -> Params:
        from backbone.network.local_start import start_locally

        params = network.init(rng)
        return start_locally(network.spec, params) if self.first_weights == "local" else params
