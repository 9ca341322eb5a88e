"""The base of the architectures that a run can start with fresh weights. Imports no jax.

@dataclass(frozen=True)
class NewBert(NewNetwork, tag="bert"):
    reads = "text"
    layout = "bert"
    blocks: int = 4
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from backbone.errors import InputError
from backbone.spec import Activation, NormFunction
from backbone.variants.registered import Registered

if TYPE_CHECKING:
    from jax import Array

    from backbone.images import ImagePreprocessing
    from backbone.network.encoder import Network
    from backbone.spec import EncoderSpec
    from backbone.storage import Preprocessing
    from backbone.trees import Params


PLAIN: Mapping[str, int | str] = MappingProxyType({"groups": 0, "kv_heads": 0, "mlp_rank": 0, "norm_function": "layer"})


class NewNetwork(Registered, by="kind", folder="trainers.pretraining.networks"):
    """An architecture with fresh weights; its fields are the sizes that a config may choose."""

    reads: ClassVar[Literal["text", "images"]]
    layout: ClassVar[str]  # family of published models whose layout the weights fit (backbone.families)

    blocks: int  # L
    width: int  # D
    heads: int  # attention heads
    mlp_width: int  # hidden units of the mlp
    groups: int  # sets of weights that blocks in a row share
    kv_heads: int  # heads of keys and values
    mlp_rank: int  # rank of the kernels of the mlp
    activation: Activation  # function of the mlp
    norm_function: NormFunction  # what the norms divide by

    def family(self) -> str:
        """Returns the family of published models whose layout the weights fit; "" if no published layout does."""
        return self.layout if self.is_plain() else ""

    def is_plain(self, *, but: str = "") -> bool:
        """Returns whether the fields of `PLAIN`, which published layouts lack, have their defaults; one may differ."""
        return all(getattr(self, name) == value for name, value in PLAIN.items() if name != but)

    def parts(self) -> Mapping[str, Any]:
        """Returns the fields of the spec that every architecture has beside its sizes."""
        return {name: getattr(self, name) for name in (*PLAIN, "activation")}

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
    """Raises InputError for a size below 1."""
    for name in ("blocks", "width", "heads", "mlp_width"):
        if getattr(network, name) < 1:
            raise InputError(f"{name}: must be at least 1, got {getattr(network, name)}")
