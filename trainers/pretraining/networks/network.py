"""The base of the architectures that a run can start with fresh weights. Imports no jax.

@dataclass(frozen=True)
class NewBert(NewNetwork, tag="bert"):
    reads = "text"
    layout = "bert"
    blocks: int = 4
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from backbone.errors import InputError
from backbone.variants.registered import Registered

if TYPE_CHECKING:
    from jax import Array

    from backbone.images import ImagePreprocessing
    from backbone.network.encoder import Network
    from backbone.spec import EncoderSpec
    from backbone.storage import Preprocessing
    from backbone.trees import Params


class NewNetwork(Registered, by="kind", folder="trainers.pretraining.networks"):
    """An architecture with fresh weights; its fields are the sizes that a config may choose."""

    reads: ClassVar[Literal["text", "images"]]
    layout: ClassVar[str]  # family of published models whose layout the weights fit (backbone.families)

    blocks: int  # L
    width: int  # D
    heads: int  # attention heads
    mlp_width: int  # hidden units of the mlp

    def preprocessing(self) -> ImagePreprocessing:
        """Returns how an image becomes a row of patches. A network of text has none: a tokenizer takes its place."""
        raise NotImplementedError

    def spec(self, preprocessing: Preprocessing) -> EncoderSpec:
        """Returns the architecture for the rows that `preprocessing` makes."""
        raise NotImplementedError

    def init_weights(self, network: Network, rng: Array) -> Params:
        """Returns fresh weights of `network`, float32."""
        return network.init(rng)


def require_sizes(network: NewNetwork) -> None:
    """Raises InputError for a size below 1, or heads that do not divide the width."""
    for name in ("blocks", "width", "heads", "mlp_width"):
        if getattr(network, name) < 1:
            raise InputError(f"{name}: must be at least 1, got {getattr(network, name)}")
    if network.width % network.heads:
        raise InputError(f"heads: {network.heads} does not divide width {network.width}")
