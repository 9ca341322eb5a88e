"""Bottleneck adapters: f(h) = act(h D + d) U + u at sublayer sites, U and u zero at the start.

Houlsby et al. 2019 (arXiv 1902.00751): y + f(y) after attention and mlp. Pfeiffer et al. 2020 (arXiv
2005.00247): after the mlp only. Parallel, He et al. 2021 (arXiv 2110.04366): y + s f(x) beside the mlp.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from adapters.methods.method import Array, Call, SiteMethod, dropout, select
from adapters.patterns import Site, matched_sites, sites_of
from adapters.specs import Bottleneck
from backbone.encoder import ACTIVATIONS, INIT_STD
from backbone.errors import InputError
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

    def bank_leaves(self, setting: Bottleneck, leaves: Params, shared: Bottleneck) -> Params:
        """Hidden units of zeros up to the bank's width; the ratio of the scales goes into U and u."""
        for field in ("placement", "activation"):
            if getattr(setting, field) != getattr(shared, field):
                raise InputError(f"{field} {getattr(setting, field)} is not the bank's {getattr(shared, field)}")
        extra = shared.width - setting.width
        if extra < 0:
            raise InputError(f"width {setting.width} exceeds the bank's {shared.width}")
        ratio = np.float32(setting.scale / shared.scale if setting.placement == "parallel" else 1)
        return {
            "down": np.pad(leaves["down"], ((0, 0), (0, extra))),
            "down_bias": np.pad(leaves["down_bias"], (0, extra)),
            "up": np.pad(leaves["up"] * ratio, ((0, extra), (0, 0))),
            "up_bias": leaves["up_bias"] * ratio,
        }

    def widest(self, first: Bottleneck, second: Bottleneck, encoder: EncoderSpec) -> Bottleneck | None:
        if (first.placement, first.activation) != (second.placement, second.activation):
            return None
        lowest = min(site.block for spec in (first, second) for site in self.settings(spec, encoder))
        blocks = first.blocks if first.blocks == second.blocks else f"{lowest}:"
        return replace(first, width=max(first.width, second.width), dropout=0.0, blocks=blocks)
