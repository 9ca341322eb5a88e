"""Router: several LoRA experts at a site, mixed for each example by a learned gate.

    y + s sum_e w_e (x A_e) B_e,    w = softmax(x_first G), all but the k largest set to zero

x_first is the site's input at the first token, as `first` pooling reads it: it needs no mask and each row
has its own weights. They are not normalised again after the cut, so that the gate has a gradient even for
k = 1 (Fedus et al. 2021, arXiv 2101.03961, equations 1 and 2; experts as in Wu et al. 2024, arXiv
2404.13628). All experts are computed, side by side as one LoRA of rank E r. There is no balancing loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from adapters.methods.method import Array, Call, Kernel, SiteMethod, dropout, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import Router
from backbone.encoder import INIT_STD
from backbone.sites import LINEAR
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


@dataclass(frozen=True)
class RouterSetting:
    """Experts at one site."""

    experts: int
    rank: int  # of each expert
    top: int
    scale: float  # s
    dropout: float


class RouterMethod(SiteMethod[Router]):
    spec_type = Router

    def settings(self, spec: Router, encoder: EncoderSpec) -> dict[Site, RouterSetting]:
        setting = RouterSetting(spec.experts, spec.rank, spec.top, spec.alpha / spec.rank, spec.dropout)
        return dict.fromkeys(matched_sites(spec.sites, sites_of(encoder, LINEAR, spec.blocks)), setting)

    def matched(self, spec: Router, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, LINEAR, spec.blocks))

    def init(self, spec: Router, site: Site, setting: RouterSetting, rng: Array) -> Params:
        gate, experts = jax.random.split(rng)
        bound = 1 / math.sqrt(site.inputs)
        shape = (spec.experts, site.inputs, spec.rank)
        return {
            "gate": INIT_STD * jax.random.normal(gate, (site.inputs, spec.experts)),
            "a": jax.random.uniform(experts, shape, minval=-bound, maxval=bound),
            "b": jnp.zeros((spec.experts, spec.rank, site.outputs)),
        }

    def after(self, setting: RouterSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        weights = _weights(setting, x[:, :1], select(leaves["gate"], call.slots)).astype(x.dtype)
        a, b = (select(leaves[name], call.slots).astype(x.dtype) for name in "ab")
        side_by_side = jnp.swapaxes(a, -3, -2)  # [..., I, E, r]
        a = side_by_side.reshape(*side_by_side.shape[:-2], -1)
        b = b.reshape(*b.shape[:-3], -1, b.shape[-1])
        low = dropout(x, setting.dropout, call.rng) @ a
        return y + setting.scale * (low * jnp.repeat(weights, setting.rank, axis=-1)) @ b

    def work(self, setting: RouterSetting, site: Site, batch: int, length: int) -> Count:
        tokens, width = batch * length, setting.experts * setting.rank
        gate = product(batch, site.inputs, setting.experts)
        return gate + product(tokens, site.inputs, width) + product(tokens, width, site.outputs)


def _weights(setting: RouterSetting, first: Array, gate: Array) -> Array:
    """Weights float32 [B,1,E] of the experts, from the first token's input [B,1,I]."""
    weights = jax.nn.softmax((first @ gate.astype(first.dtype)).astype(jnp.float32))
    _, kept = jax.lax.top_k(weights, setting.top)
    return weights * jax.nn.one_hot(kept, setting.experts).sum(axis=-2)
