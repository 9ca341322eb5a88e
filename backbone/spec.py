"""The architecture of an encoder as data. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from backbone.errors import InputError
from backbone.records import encode, newer

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu", "squared_relu"]
NormFunction: TypeAlias = Literal["layer", "rms"]


@dataclass(frozen=True)
class ImageSpec:
    """Square images cut into square patches, each a token, behind learned class tokens."""

    size: int  # pixels a side
    patch: int  # pixels a side of a patch
    mean: tuple[float, ...]  # each channel's value that is subtracted after scaling to 0..1
    std: tuple[float, ...]  # each channel's value that is divided by
    special: int = 1  # number of learned tokens in front: the class token, and DeiT's distillation token

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < 1 or self.size % self.patch:
            raise InputError(f"size: an image of {self.size} pixels cannot be cut into patches of {self.patch}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise InputError(f"mean: one value for grey or three for colour, and as many positive std; got {self.mean}")
        if self.special < 1:
            raise InputError(f"special: at least the class token, got {self.special}")

    @property
    def channels(self) -> int:
        """Returns 1 (grey) or 3 (red, green, blue)."""
        return len(self.mean)

    @property
    def tokens(self) -> int:
        """Returns the tokens of every image, the special ones included."""
        return self.special + (self.size // self.patch) ** 2

    @property
    def patch_width(self) -> int:
        """Returns the number of values of one patch."""
        return self.patch**2 * self.channels


class BlockKind(NamedTuple):
    """The ways in which blocks may differ; blocks of one kind share compiled programs."""

    window: int  # tokens visible on either side; 0 = all
    theta: float  # base of the rotary angles; 0 = none
    attention_norm: bool  # the norm before (pre) or after (post) attention exists


@dataclass(frozen=True)
class EncoderSpec:
    """A transformer encoder. The defaults are BERT's: post-norm blocks, learned absolute positions.

    Every dense layer and every norm has a bias; families without one import zeros.
    """

    blocks: int  # L; 0: vectors of tokens alone, which have no positions
    width: int  # D, the width of hidden states
    heads: int  # H; a head has width D / H
    mlp_width: int  # hidden units of the mlp
    vocabulary: int  # V, token ids 0..V-1; 0 for images
    positions: int  # longest input in tokens
    segments: int = 2  # token types; 0 = none
    position_offset: int = 0  # position id of the first token
    activation: Activation = "gelu"  # function of the mlp; gelu is the exact one (erf)
    norm_epsilon: float = 1e-12  # added to the variance in LayerNorm
    pooler: bool = True  # a dense layer with tanh on the first token exists
    norm: Literal["post", "pre"] = "post"  # after each residual sum; or before each sublayer and once at the end
    first_norm: bool = True  # block 0 has an attention norm (ModernBERT's has none)
    embedding_norm: bool = True  # embeddings are normalised
    mlp: Literal["dense", "gated"] = "dense"  # gated: up is [D,2M], activation(first half) * second half
    rotary_theta: float = 0.0  # base of rotary angles where every token is visible; 0 = learned positions
    local_theta: float = 0.0  # base of rotary angles in blocks with a window
    windows: tuple[int, ...] = ()  # tokens visible on either side in each block, 0 = all; empty = all in every block
    image: ImageSpec | None = None  # images and their patches; None for text
    groups: int = field(default=0, metadata=newer())  # sets of weights, each for L / groups blocks in a row; 0 = L sets
    embedding_width: int = field(default=0, metadata=newer())  # E, width of the embeddings below a projection; 0 = none
    kv_heads: int = field(default=0, metadata=newer())  # heads of keys and values; each serves H / kv_heads; 0 = H
    mlp_rank: int = field(
        default=0, metadata=newer()
    )  # R of the kernels [D,R][R,M] and [M,R][R,D] of the mlp; 0 = whole
    norm_function: NormFunction = field(default="layer", metadata=newer())  # rms: no mean is subtracted

    # Fields that are no part of an identity while they hold their defaults, since backbones were stored without them.
    LATER: ClassVar[tuple[str, ...]] = (
        "norm",
        "first_norm",
        "embedding_norm",
        "mlp",
        "rotary_theta",
        "local_theta",
        "windows",
        "image",
    )

    def __post_init__(self) -> None:
        if self.blocks < 0:
            raise InputError(f"blocks: may not be negative, got {self.blocks}")
        for name in ("width", "heads", "mlp_width", "positions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        self._check_compact()
        if self.width % self.heads:
            raise InputError(f"heads: {self.heads} does not divide width {self.width}")
        if self.segments < 0 or self.position_offset < 0 or self.norm_epsilon <= 0:
            raise InputError("segments: neither this nor position_offset may be negative; norm_epsilon is positive")
        if (self.vocabulary < 1) != (self.image is not None):
            raise InputError(f"vocabulary: at least 1 for text and 0 for images, got {self.vocabulary}")
        if self.image and (self.positions != self.image.tokens or self.segments or self.rotary_theta):
            raise InputError(f"positions: an image of {self.image.tokens} tokens has as many learned ones, no segments")
        if self.windows and (len(self.windows) != self.blocks or min(self.windows) < 0):
            raise InputError(f"windows: one for each of {self.blocks} blocks, none negative; got {self.windows}")
        if self.rotary_theta and (self.width // self.heads) % 2:
            raise InputError(f"rotary_theta: rotary positions need heads of even width, got {self.width // self.heads}")
        if self.rotary_theta < 0 or (any(self.windows) and bool(self.rotary_theta) != bool(self.local_theta)):
            raise InputError("local_theta: blocks with a window need one exactly where rotary_theta is set")

    def _check_compact(self) -> None:
        """Raises InputError for groups or heads that do not divide, or a narrow part that is not narrower."""
        for name in ("groups", "embedding_width", "kv_heads", "mlp_rank"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: may not be negative, got {getattr(self, name)}")
        if self.groups and self.blocks % self.groups:
            raise InputError(
                f"groups: {self.groups} does not divide {self.blocks} blocks; a group is as many as another"
            )
        if self.groups and not self.first_norm and self.groups < self.blocks:
            raise InputError("groups: block 0 has no attention norm, so it cannot share the weights of block 1")
        if self.kv_heads and self.heads % self.kv_heads:
            raise InputError(f"kv_heads: {self.kv_heads} does not divide {self.heads} heads")
        if self.embedding_width > self.width:
            raise InputError(f"embedding_width: at most the width {self.width}, got {self.embedding_width}")
        if self.embedding_width and self.image:
            raise InputError("embedding_width: patches are projected to the width of the blocks; set 0 for images")
        if self.mlp_rank >= min(self.width, self.mlp_width):
            smaller = min(self.width, self.mlp_width)
            raise InputError(f"mlp_rank: {self.mlp_rank} is no low rank; it must be below {smaller}, the smaller width")

    @property
    def kv_width(self) -> int:
        """Returns the width of keys and values: D, or less where several heads share them."""
        return self.width // self.heads * (self.kv_heads or self.heads)

    @property
    def shares_weights(self) -> bool:
        """Returns whether two blocks have the same weights."""
        return 0 < self.groups < self.blocks

    def weights_key(self, block: int) -> str:
        """Returns the key of a block's weights in the tree `blocks`: the number of its group, or of the block."""
        return str(block * self.groups // self.blocks if self.groups else block)

    @property
    def reads(self) -> Literal["text", "images"]:
        """Returns what an input is."""
        return "images" if self.image else "text"

    def block_kind(self, block: int) -> BlockKind:
        """Returns the kind of a block."""
        window = self.windows[block] if self.windows else 0
        theta = self.local_theta if window else self.rotary_theta
        return BlockKind(window, theta, block > 0 or self.first_norm)

    def identity(self) -> dict[str, Any]:
        """Returns the part of the architecture that `weights_id` hashes."""
        default = {name: type(self).__dataclass_fields__[name].default for name in self.LATER}
        return {k: v for k, v in encode(self).items() if k not in default or getattr(self, k) != default[k]}
