"""LoRA: y + s (x A) B at linear sites (Hu et al. 2021, arXiv 2106.09685, equation 3).

A [I, r] starts uniform in +-1/sqrt(I) as in the authors' code, B [r, O]
at zero. s is alpha/r, or alpha/sqrt(r) rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal, Self, TypeAlias

import numpy as np

from adapters.methods.method import Array, Call, Kernel, SiteMethod, dropout, select
from adapters.methods.settings import require_blocks, require_fraction, require_patterns, require_positive
from adapters.patterns import Site, covering, matched_sites
from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product

Scaling: TypeAlias = Literal["standard", "rank_stabilised"]


@dataclass(frozen=True)
class LoraOverride:
    """Another rank or alpha for the sites that a pattern matches; the last match wins."""

    sites: str  # glob pattern, see `adapters.patterns`
    rank: int | None = None  # columns of A; None keeps the common rank
    alpha: float | None = None  # numerator of the scale; None keeps the common alpha

    def __post_init__(self) -> None:
        if self.rank is None and self.alpha is None:
            raise InputError(f"sites: the override for {self.sites!r} changes neither rank nor alpha")
        if self.rank is not None:
            require_positive(rank=self.rank)
        if self.alpha is not None:
            require_positive(alpha=self.alpha)


@dataclass(frozen=True)
class LoraSetting:
    """Rank and scale at one site."""

    rank: int  # columns of A
    scale: float  # factor s
    dropout: float  # probability on the input of A, in training only


@dataclass(frozen=True)
class Lora(SiteMethod, tag="lora"):
    """Low-rank update of linear sites, y = x W + b + s (x A) B, s = alpha/rank or alpha/sqrt(rank).

    Source: Hu et al. 2021 (arXiv 2106.09685), equation 3; rank-stabilised scale: Kalajdzievski
    2023 (arXiv 2312.03732). B starts at zero: exactly the identity at step 0.
    """

    adapts_ranks: ClassVar[bool] = True
    has_magnitude: ClassVar[bool] = False  # a leaf `magnitude` beside A and B (DoRA)
    free_in_bank: ClassVar[tuple[str, ...]] = (
        "rank", "alpha", "sites", "overrides", "scaling", "dropout", "blocks",
    )  # fmt: skip
    # A subclass with other leaves says the same of them.
    rank_axes: ClassVar[Mapping[str, int]] = MappingProxyType({"a": 1, "b": 0})  # axis that is the rank, by leaf
    scaled: ClassVar[str] = "b"  # leaf to which the update is proportional: it takes up the ratio of two scales

    rank: int = 8  # columns of A
    alpha: float = 16.0  # numerator of the scale
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # patterns over linear sites
    overrides: tuple[LoraOverride, ...] = ()  # rank and alpha per pattern
    scaling: Scaling = "standard"  # scale s: alpha/rank, or alpha/sqrt(rank)
    dropout: float = 0.0  # probability on the input of A, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_positive(rank=self.rank, alpha=self.alpha)
        require_fraction(dropout=self.dropout)
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)

    def settings(self, encoder: EncoderSpec) -> dict[Site, LoraSetting]:
        chosen = self.chosen(encoder)
        rank, alpha = dict.fromkeys(chosen, self.rank), dict.fromkeys(chosen, self.alpha)
        for override in self.overrides:
            for site in matched_sites((override.sites,), chosen, "overrides"):
                rank[site] = override.rank or rank[site]
                alpha[site] = override.alpha or alpha[site]
        root = self.scaling == "rank_stabilised"
        return {
            site: LoraSetting(rank[site], alpha[site] / (math.sqrt(rank[site]) if root else rank[site]), self.dropout)
            for site in chosen
        }

    def init(self, site: Site, setting: LoraSetting, rng: Array) -> Params:
        bound = 1 / math.sqrt(site.inputs)
        a = jax.random.uniform(rng, (site.inputs, setting.rank), minval=-bound, maxval=bound)
        return {"a": a, "b": jnp.zeros((setting.rank, site.outputs))}

    def after(self, setting: LoraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        a, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "ab")
        x = dropout(x, setting.dropout, call.rng)
        if call.slots is None:  # as matrices: on CPU a third faster than with a batch axis
            x = x.reshape(-1, x.shape[-1])
        return y + (setting.scale * (x @ a) @ b).reshape(y.shape)

    def cost(self, setting: LoraSetting, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.rank) + product(tokens, setting.rank, site.outputs)

    def merge(self, setting: LoraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel + setting.scale * leaves["a"] @ leaves["b"], bias

    def bank_leaves(self, setting: LoraSetting, leaves: Params, shared: LoraSetting) -> Params:
        """Adds zeros along `rank_axes` up to the bank's rank; multiplies the leaf `scaled` by the scales' ratio.

        Zero columns of A and rows of B change no product. Where other ranks do, a subclass pads in its own way.
        """
        extra = shared.rank - setting.rank
        if extra < 0:
            raise InputError(f"rank {setting.rank} exceeds the bank's {shared.rank}")
        if unknown := [name for name in (*self.rank_axes, self.scaled) if name not in leaves]:
            raise InputError(
                f"no leaf {unknown[0]}, only {', '.join(leaves)}; state the leaves of {type(self).__name__} in "
                f"rank_axes and scaled"
            )
        padded = {}
        for name, leaf in leaves.items():
            ends = [(0, extra if axis == self.rank_axes.get(name) else 0) for axis in range(leaf.ndim)]
            padded[name] = np.pad(
                leaf * np.float32(setting.scale / shared.scale) if name == self.scaled else leaf, ends
            )
        return padded

    def widest(self, other: Self, encoder: EncoderSpec) -> Self | None:
        both = [method.settings(encoder) for method in (self, other)]
        rank = max(setting.rank for settings in both for setting in settings.values())
        if (self.sites, self.blocks) == (other.sites, other.blocks):
            return replace(self, rank=rank, overrides=(), dropout=0.0)
        sites = sorted({site for settings in both for site in settings})
        return replace(
            self, rank=rank, sites=tuple(site.full_name for site in sites), overrides=(), dropout=0.0, blocks=""
        )

    def with_fewer(self, encoder: EncoderSpec, ranks: Mapping[Site, int]) -> Self:
        root, settings = self.scaling == "rank_stabilised", self.settings(encoder)
        kept = {
            site: (rank, settings[site].scale * (math.sqrt(rank) if root else rank)) for site, rank in ranks.items()
        }
        shortest = Lora.with_ranks(kept, encoder)
        changed = {name: getattr(shortest, name) for name in ("rank", "alpha", "sites", "overrides", "blocks")}
        return replace(self, **changed)

    @classmethod
    def with_ranks(
        cls,
        ranks: Mapping[Site, tuple[int, float]],
        encoder: EncoderSpec,
        *,
        scaling: Scaling = "standard",
        dropout: float = 0.0,
    ) -> Self:
        """Returns the shortest settings with exactly these ranks and alphas by site."""
        (rank, alpha), _ = Counter(ranks.values()).most_common(1)[0]
        sites, blocks = covering(tuple(ranks), encoder)
        overrides = tuple(
            LoraOverride(site.full_name, rank=r if r != rank else None, alpha=a if a != alpha else None)
            for site, (r, a) in ranks.items()
            if (r, a) != (rank, alpha)
        )
        return cls(rank, alpha, sites, overrides, scaling, dropout, blocks)

    @classmethod
    def example(cls) -> Self:
        return cls(rank=4)
