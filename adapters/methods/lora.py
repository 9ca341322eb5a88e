"""LoRA: y + s (x A) B at linear sites (Hu et al. 2021, arXiv 2106.09685, equation 3).

A [I, r] starts uniform in +-1/sqrt(I) as in the authors' code, B [r, O]
at zero. s is alpha/r, or alpha/sqrt(r) rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from adapters.methods.method import Array, Call, Kernel, SiteMethod, dropout, select
from adapters.patterns import Site, covering, match, matched_sites, sites_of
from adapters.specs import Lora, LoraOverride
from backbone.errors import InputError
from backbone.sites import LINEAR
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class LoraSetting:
    """Rank and scale at one site."""

    rank: int
    scale: float  # s
    dropout: float


def lora_spec(
    found: Mapping[Site, tuple[int, float]],
    encoder: EncoderSpec,
    *,
    kind: type[Lora] = Lora,
    scaling: Literal["standard", "rank_stabilised"] = "standard",
    dropout: float = 0.0,
) -> Lora:
    """The shortest spec with exactly these sites, ranks and alphas."""
    (rank, alpha), _ = Counter(found.values()).most_common(1)[0]
    sites, blocks = covering(tuple(found), encoder)
    overrides = tuple(
        LoraOverride(site.full_name, rank=r if r != rank else None, alpha=a if a != alpha else None)
        for site, (r, a) in found.items()
        if (r, a) != (rank, alpha)
    )
    return kind(rank, alpha, sites, overrides, scaling, dropout, blocks)


class LoraMethod(SiteMethod[Lora]):
    spec_type = Lora

    def settings(self, spec: Lora, encoder: EncoderSpec) -> dict[Site, LoraSetting]:
        everywhere = sites_of(encoder, LINEAR, spec.blocks)
        chosen = matched_sites(spec.sites, everywhere)
        rank = dict.fromkeys(chosen, spec.rank)
        alpha = dict.fromkeys(chosen, spec.alpha)
        for override in spec.overrides:
            for site in matched_sites((override.sites,), chosen, "overrides"):
                rank[site] = override.rank or rank[site]
                alpha[site] = override.alpha or alpha[site]
        root = spec.scaling == "rank_stabilised"
        return {
            site: LoraSetting(rank[site], alpha[site] / (math.sqrt(rank[site]) if root else rank[site]), spec.dropout)
            for site in chosen
        }

    def matched(self, spec: Lora, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, LINEAR, spec.blocks))

    def init(self, spec: Lora, site: Site, setting: LoraSetting, rng: Array) -> Params:
        bound = 1 / math.sqrt(site.inputs)
        a = jax.random.uniform(rng, (site.inputs, setting.rank), minval=-bound, maxval=bound)
        return {"a": a, "b": jnp.zeros((setting.rank, site.outputs))}

    def after(self, setting: LoraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        a, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "ab")
        x = dropout(x, setting.dropout, call.rng)
        if call.slots is None:  # as matrices: on CPU a third faster than with a batch axis
            x = x.reshape(-1, x.shape[-1])
        return y + (setting.scale * (x @ a) @ b).reshape(y.shape)

    def work(self, setting: LoraSetting, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.rank) + product(tokens, setting.rank, site.outputs)

    def merge(self, setting: LoraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel + setting.scale * leaves["a"] @ leaves["b"], bias

    def bank_leaves(self, setting: LoraSetting, leaves: Params, shared: LoraSetting) -> Params:
        """Zero columns of A and rows of B up to the bank's rank; the ratio of the scales goes into B."""
        extra = shared.rank - setting.rank
        if extra < 0:
            raise InputError(f"rank {setting.rank} exceeds the bank's {shared.rank}")
        a = np.pad(leaves["a"], ((0, 0), (0, extra)))
        b = np.pad(leaves["b"] * np.float32(setting.scale / shared.scale), ((0, extra), (0, 0)))
        return {**leaves, "a": a, "b": b}

    def widest(self, first: Lora, second: Lora, encoder: EncoderSpec) -> Lora:
        both = [self.settings(spec, encoder) for spec in (first, second)]
        rank = max(setting.rank for settings in both for setting in settings.values())
        if (first.sites, first.blocks) == (second.sites, second.blocks):
            return replace(first, rank=rank, overrides=(), dropout=0.0)
        sites = sorted({site for settings in both for site in settings})
        return replace(
            first, rank=rank, sites=tuple(site.full_name for site in sites), overrides=(), dropout=0.0, blocks=""
        )
