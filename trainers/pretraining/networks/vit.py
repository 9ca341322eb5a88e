"""A ViT with fresh weights. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backbone.errors import InputError
from backbone.images import ImagePreprocessing
from backbone.records import newer
from backbone.spec import Activation, EncoderSpec, ImageSpec, NormFunction
from trainers.pretraining.networks.network import NewNetwork, require_sizes

if TYPE_CHECKING:
    from backbone.storage import Preprocessing


@dataclass(frozen=True)
class NewVit(NewNetwork, tag="vit"):
    """A ViT with a class token and no pooler; its preprocessing is made from these fields."""

    reads = "images"
    layout = "vit"

    size: int = 28  # pixels a side; images are resized to it
    patch: int = 7  # pixels a side of a patch; divides the size
    channels: int = 1  # 1 (grey) or 3 (colour)
    blocks: int = 4  # L
    width: int = 128  # D
    heads: int = 4  # attention heads
    mlp_width: int = 256  # hidden units of the mlp
    groups: int = field(default=0, metadata=newer())  # sets of weights, each for blocks in a row; 0: one a block
    kv_heads: int = field(default=0, metadata=newer())  # heads of keys and values, shared by queries; 0: as many
    mlp_rank: int = field(default=0, metadata=newer())  # rank of both kernels of the mlp; 0: whole kernels
    activation: Activation = field(default="gelu", metadata=newer())  # function of the mlp
    norm_function: NormFunction = field(default="layer", metadata=newer())  # rms: no mean is subtracted

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"channels: {self.channels} is not supported; 1 (grey) or 3 (colour) are")
        if self.patch < 1 or self.size < 1 or self.size % self.patch:
            raise InputError(f"patch: an image of {self.size} pixels cannot be cut into patches of {self.patch}")
        require_sizes(self)
        self._spec()

    @property
    def image(self) -> ImageSpec:
        """Returns the patches of an image, and pixel values from -1 to 1."""
        middle = (0.5,) * self.channels
        return ImageSpec(self.size, self.patch, mean=middle, std=middle)

    def preprocessing(self) -> ImagePreprocessing:
        return ImagePreprocessing(self.image, resize=self.size)

    def spec(self, preprocessing: Preprocessing) -> EncoderSpec:
        return self._spec()

    def _spec(self) -> EncoderSpec:
        return EncoderSpec(
            blocks=self.blocks,
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            vocabulary=0,
            positions=self.image.tokens,
            segments=0,
            pooler=False,
            norm="pre",
            embedding_norm=False,
            image=self.image,
            **self.parts(),
        )
