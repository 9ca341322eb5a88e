"""Bottleneck adapters: f(h) = act(h D + d) U + u at sublayer sites, U and u zero at the start.

Houlsby et al. 2019 (arXiv 1902.00751): y + f(y) after attention and mlp. Pfeiffer et al. 2020 (arXiv
2005.00247): after the mlp only. Parallel, He et al. 2021 (arXiv 2110.04366): y + s f(x) beside the mlp.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapters.methods.method import Array, Call, SiteMethod, dropout, select
from adapters.patterns import Site, matched_sites, sites_of
from adapters.specs import Bottleneck
from backbone.encoder import ACTIVATIONS, INIT_STD
from backbone.sites import SUBLAYER
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product

PLACES = {"houlsby": ("attention", "mlp"), "pfeiffer": ("mlp",), "parallel": ("mlp",)}


class BottleneckMethod(SiteMethod[Bottleneck]):
    spec_type = Bottleneck

    def settings(self, spec: Bottleneck, encoder: EncoderSpec) -> dict[Site, Bottleneck]:
        everywhere = sites_of(encoder, SUBLAYER, spec.blocks)
        return dict.fromkeys(matched_sites(PLACES[spec.placement], everywhere, "placement"), spec)

    def init(self, spec: Bottleneck, site: Site, setting: Bottleneck, rng: Array) -> Params:
        return {
            "down": INIT_STD * jax.random.normal(rng, (site.inputs, spec.width)),
            "down_bias": jnp.zeros((spec.width,)),
            "up": jnp.zeros((spec.width, site.outputs)),
            "up_bias": jnp.zeros((site.outputs,)),
        }

    def sublayer(self, setting: Bottleneck, leaves: Params, x: Array, y: Array, call: Call) -> Array:
        p = {name: select(leaf, call.slots).astype(y.dtype) for name, leaf in leaves.items()}
        h = x if setting.placement == "parallel" else y
        hidden = ACTIVATIONS[setting.activation](h @ p["down"] + p["down_bias"])
        f = dropout(hidden, setting.dropout, call.rng) @ p["up"] + p["up_bias"]
        return y + (setting.scale * f if setting.placement == "parallel" else f)

    def work(self, setting: Bottleneck, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.width) + product(tokens, setting.width, site.outputs)
