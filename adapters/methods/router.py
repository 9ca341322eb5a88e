"""Router: several LoRA experts at a site, mixed for each example by a learned gate.

    y + s sum_e w_e (x A_e) B_e,    w = softmax(x_first G), all but the k largest set to zero

x_first is the site's input at the first token, as `first` pooling reads it: it needs no mask, and each row
has weights of its own. The weights are not normalised again after the cut, so that the gate has a gradient
even for k = 1 (Fedus et al. 2021, arXiv 2101.03961, equations 1 and 2; experts as in Wu et al. 2024, arXiv
2404.13628). All experts are computed, side by side as one LoRA of rank E r. There is no balancing loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from adapters.methods.method import Array, Call, Kernel, SiteMethod, dropout, select
from adapters.methods.settings import require_blocks, require_fraction, require_patterns, require_positive
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class RouterSetting:
    """Experts at one site."""

    experts: int  # number of experts E
    rank: int  # rank r of each expert
    top: int  # experts that count for an example
    scale: float  # factor s
    dropout: float  # probability on the input of A, in training only


@dataclass(frozen=True)
class Router(SiteMethod, tag="router"):
    """Several LoRA experts at each site, mixed for each example by a learned gate; the top few count.

    Gate: Fedus et al. 2021 (arXiv 2101.03961), equations 1 and 2. Every B starts at zero.
    """

    experts: int = 4  # LoRAs at each site
    top: int = 2  # experts that count for an example
    rank: int = 4  # rank of each expert
    alpha: float = 8.0  # numerator of the scale alpha/rank
    sites: tuple[str, ...] = ("attention/query", "attention/value")  # patterns over linear sites
    dropout: float = 0.0  # probability on the input of A, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_positive(rank=self.rank, alpha=self.alpha)
        require_fraction(dropout=self.dropout)
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)
        if not 1 <= self.top <= self.experts:
            raise InputError(f"top: must lie in 1..experts ({self.experts}), got {self.top}")

    def settings(self, encoder: EncoderSpec) -> dict[Site, RouterSetting]:
        setting = RouterSetting(self.experts, self.rank, self.top, self.alpha / self.rank, self.dropout)
        return dict.fromkeys(self.chosen(encoder), setting)

    def init(self, site: Site, setting: RouterSetting, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD

        gate, experts = jax.random.split(rng)
        bound = 1 / math.sqrt(site.inputs)
        shape = (self.experts, site.inputs, self.rank)
        return {
            "gate": INIT_STD * jax.random.normal(gate, (site.inputs, self.experts)),
            "a": jax.random.uniform(experts, shape, minval=-bound, maxval=bound),
            "b": jnp.zeros((self.experts, self.rank, site.outputs)),
        }

    def after(self, setting: RouterSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        weights = _weights(setting, x[:, :1], select(leaves["gate"], call.slots)).astype(x.dtype)
        a, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "ab")
        side_by_side = jnp.swapaxes(a, -3, -2)  # [..., I, E, r]
        a = side_by_side.reshape(*side_by_side.shape[:-2], -1)
        b = b.reshape(*b.shape[:-3], -1, b.shape[-1])
        low = dropout(x, setting.dropout, call.rng) @ a
        return y + setting.scale * (low * jnp.repeat(weights, setting.rank, axis=-1)) @ b

    def cost(self, setting: RouterSetting, site: Site, batch: int, length: int) -> Count:
        tokens, width = batch * length, setting.experts * setting.rank
        gate = product(batch, site.inputs, setting.experts)
        return gate + product(tokens, site.inputs, width) + product(tokens, width, site.outputs)

    @classmethod
    def example(cls) -> Self:
        return cls(experts=3, top=2, rank=2)


def _weights(setting: RouterSetting, first: Array, gate: Array) -> Array:
    """Returns the experts' weights float32 [B,1,E], from the first token's input [B,1,I]."""
    weights = jax.nn.softmax((first @ gate.astype(first.dtype)).astype(jnp.float32))
    _, kept = jax.lax.top_k(weights, setting.top)
    return weights * jax.nn.one_hot(kept, setting.experts).sum(axis=-2)
