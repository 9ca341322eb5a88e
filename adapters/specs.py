"""What is grafted on, as data: one frozen dataclass per method; heads from `adapters.heads`. Imports no jax.

A method acts at sites of the backbone's blocks (see `backbone.sites`) or reads its hidden states.
`sites` are glob patterns over site names (`attention/query`, `mlp/*`) or over full names with a
leading block number (`3/attention/query`); each must match something. `blocks` limits any method
to a range of blocks, in Python's slice notation: `""` all, `"4:"` from block 4, `"-2:"` the top two.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from adapters.heads.classification import Classification
from adapters.heads.head import Head
from adapters.heads.multi_label import MultiLabel
from adapters.heads.pooling import Pair, Pooling
from adapters.heads.regression import Regression
from adapters.heads.token_tagging import TokenTagging
from backbone.errors import InputError

_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")


def block_range(blocks: str, count: int) -> range:
    """Block numbers that `blocks` selects from `count` blocks; raises InputError if none."""
    if blocks == "":
        return range(count)
    match = _SLICE.fullmatch(blocks)
    if not match:
        raise InputError(f"blocks: {blocks!r} is not a slice such as '4:', ':2', '-2:' or '' (all)")
    chosen = range(count)[slice(*(int(g) if g else None for g in match.groups()))]
    if not chosen:
        raise InputError(f"blocks: {blocks!r} selects none of the {count} blocks (0..{count - 1})")
    return chosen


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name}: must be a positive number, got {value}")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}: must be at least 0 and below 1, got {value}")


def _some(**patterns: tuple[str, ...]) -> None:
    for name, values in patterns.items():
        if not values:
            raise InputError(f"{name}: at least one pattern is needed")


def _check_blocks(blocks: str) -> None:
    if blocks and not _SLICE.fullmatch(blocks):
        raise InputError(f"blocks: {blocks!r} is not a slice such as '4:', ':2', '-2:' or '' (all)")


@dataclass(frozen=True)
class LoraOverride:
    """Another rank or alpha for the sites that a pattern matches; the last match wins."""

    sites: str  # glob pattern, see the module docstring
    rank: int | None = None  # columns of A; None keeps the common rank
    alpha: float | None = None  # scale numerator; None keeps the common alpha

    def __post_init__(self) -> None:
        if self.rank is None and self.alpha is None:
            raise InputError(f"sites: the override for {self.sites!r} changes neither rank nor alpha")
        if self.rank is not None:
            _positive(rank=self.rank)
        if self.alpha is not None:
            _positive(alpha=self.alpha)


@dataclass(frozen=True)
class Lora:
    """Low-rank update of linear sites, y = x W + b + s (x A) B, s = alpha/rank or alpha/sqrt(rank).

    Source: Hu et al. 2021 (arXiv 2106.09685), equation 3; rank-stabilised scale: Kalajdzievski
    2023 (arXiv 2312.03732). B starts at zero: exactly the identity at step 0.
    """

    method: ClassVar[str] = "lora"
    rank: int = 8  # columns of A
    alpha: float = 16.0  # numerator of the scale
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # linear sites
    overrides: tuple[LoraOverride, ...] = ()  # rank and alpha per pattern
    scaling: Literal["standard", "rank_stabilised"] = "standard"  # alpha/rank or alpha/sqrt(rank)
    dropout: float = 0.0  # probability on the input of A, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _positive(rank=self.rank, alpha=self.alpha)
        _fraction(dropout=self.dropout)
        _check_blocks(self.blocks)
        _some(sites=self.sites)


@dataclass(frozen=True)
class Bottleneck:
    """Small two-layer network f(h) = act(h D + d) U + u at sublayer sites, U zero at the start.

    `houlsby`: y + f(y) after the attention and the mlp sublayer (Houlsby et al. 2019, arXiv
    1902.00751, figure 2); `pfeiffer`: the same after the mlp only (Pfeiffer et al. 2020, arXiv
    2005.00247); `parallel`: y + s f(x) beside the mlp (He et al. 2021, arXiv 2110.04366, table 1).
    x is the sublayer's input, y its output before the residual sum and norm.
    """

    method: ClassVar[str] = "bottleneck"
    width: int = 48  # hidden units
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    activation: Literal["relu", "gelu", "silu"] = "relu"
    scale: float = 1.0  # s, for parallel (the paper's best: 4)
    dropout: float = 0.0  # probability on the hidden units, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _positive(width=self.width, scale=self.scale)
        _fraction(dropout=self.dropout)
        _check_blocks(self.blocks)


@dataclass(frozen=True)
class IA3:
    """Learned scales of activations: outputs of `scale_outputs`, inputs of `scale_inputs`.

    Source: Liu et al. 2022 (arXiv 2205.05638), section 3.3. Scales start at one.
    """

    method: ClassVar[str] = "ia3"
    scale_outputs: tuple[str, ...] = ("attention/key", "attention/value")  # linear sites
    scale_inputs: tuple[str, ...] = ("mlp/down",)  # linear sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _check_blocks(self.blocks)
        if not (self.scale_outputs or self.scale_inputs):
            raise InputError("scale_outputs: at least one pattern is needed here or in scale_inputs")


@dataclass(frozen=True)
class Dora(Lora):
    """LoRA with direction and magnitude apart: W' = m (W + s A B) / ||W + s A B||, column by column.

    Source: Liu et al. 2024 (arXiv 2402.09353), equation 5. The fields are LoRA's. m starts at ||W||:
    exactly the identity at step 0.
    """

    method: ClassVar[str] = "dora"


@dataclass(frozen=True)
class Vera:
    """y + ((x A) d) B b: d and b are learned; A and B are drawn from `seed`, shared by all sites, never stored.

    Source: Kopiczko et al. 2023 (arXiv 2310.11454), equation 2. b starts at zero.
    """

    method: ClassVar[str] = "vera"
    rank: int = 256  # columns of A
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # linear sites
    seed: int = 0  # of A and B; PEFT's projection_prng_key
    d_start: float = 0.1  # first value of d
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _positive(rank=self.rank, d_start=self.d_start)
        _check_blocks(self.blocks)
        _some(sites=self.sites)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")


@dataclass(frozen=True)
class SSF:
    """Scale and shift of the outputs of dense layers and norms.

    Source: Lian et al. 2022 (arXiv 2210.08823), equation 3. Scales start at one, shifts at zero.
    """

    method: ClassVar[str] = "ssf"
    sites: tuple[str, ...] = ("attention/*", "mlp/*")  # linear and norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _check_blocks(self.blocks)
        _some(sites=self.sites)


@dataclass(frozen=True)
class Bias:
    """Another bias for dense layers and norms (BitFit: Ben Zaken et al. 2021, arXiv 2106.10199)."""

    method: ClassVar[str] = "bias"
    sites: tuple[str, ...] = ("attention/*", "mlp/*")  # linear and norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _check_blocks(self.blocks)
        _some(sites=self.sites)


@dataclass(frozen=True)
class Norm:
    """Another scale and bias for norms (Zhao et al. 2023, arXiv 2312.11420)."""

    method: ClassVar[str] = "norm"
    sites: tuple[str, ...] = ("attention/norm", "mlp/norm")  # norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _check_blocks(self.blocks)
        _some(sites=self.sites)


@dataclass(frozen=True)
class Prefix:
    """Learned keys and values before those of the input, in every chosen block.

    Source: Li & Liang 2021 (arXiv 2101.00190), section 4.2. Not the identity at step 0.
    """

    method: ClassVar[str] = "prefix"
    length: int = 16  # keys and values in each block
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _positive(length=self.length)
        _check_blocks(self.blocks)


@dataclass(frozen=True)
class Router:
    """Several LoRA experts at each site, mixed for each example by a learned gate; the top few count.

    Gate: Fedus et al. 2021 (arXiv 2101.03961), equations 1 and 2. Every B starts at zero.
    """

    method: ClassVar[str] = "router"
    experts: int = 4  # LoRAs at each site
    top: int = 2  # experts that count for an example
    rank: int = 4  # of each expert
    alpha: float = 8.0  # numerator of the scale alpha/rank
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # linear sites
    dropout: float = 0.0  # probability on the input of A, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        _positive(rank=self.rank, alpha=self.alpha)
        _fraction(dropout=self.dropout)
        _check_blocks(self.blocks)
        _some(sites=self.sites)
        if not 1 <= self.top <= self.experts:
            raise InputError(f"top: must lie in 1..experts ({self.experts}), got {self.top}")


@dataclass(frozen=True)
class Probe:
    """No parameters in the backbone: the head reads pooled states of chosen boundaries.

    Boundary k is the input of block k, boundary L the final output. The states are pooled as the
    head says and concatenated in the order of `boundaries`; -1 is the last. `()` is every one of 0..L.
    Never differentiates the backbone.
    """

    method: ClassVar[str] = "probe"
    boundaries: tuple[int, ...] = (-1,)  # which boundaries; () = all


@dataclass(frozen=True)
class Ladder:
    """Side network of reduced width fed by the hidden states; never differentiates the backbone.

    Source: Sung et al. 2022 (arXiv 2206.06522), section 3: at rung k the side state is mixed with
    the down-projected backbone state by a learned gate, then passes a small transformer block;
    the result is projected up and added to the backbone's output. The up-projection starts at zero.
    """

    method: ClassVar[str] = "ladder"
    reduction: int = 8  # side width = backbone width / reduction
    blocks: str = ""  # rungs beside these blocks, slice notation

    def __post_init__(self) -> None:
        _positive(reduction=self.reduction)
        _check_blocks(self.blocks)


MethodSpec: TypeAlias = Lora | Dora | Vera | Bottleneck | IA3 | SSF | Bias | Norm | Prefix | Router | Probe | Ladder


def above(spec: MethodSpec, first: int, count: int) -> MethodSpec:
    """A method that acts in blocks, without the blocks below `first` of `count`."""
    method: Any = spec
    return replace(method, blocks=f"{max(first, block_range(method.blocks, count).start)}:")  # type: ignore[no-any-return]


__all__ = [
    "IA3",
    "SSF",
    "Bias",
    "Bottleneck",
    "Classification",
    "Dora",
    "Head",
    "Ladder",
    "Lora",
    "LoraOverride",
    "MethodSpec",
    "MultiLabel",
    "Norm",
    "Pair",
    "Pooling",
    "Prefix",
    "Probe",
    "Regression",
    "Router",
    "TokenTagging",
    "Vera",
    "above",
    "block_range",
]
