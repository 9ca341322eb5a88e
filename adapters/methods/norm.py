"""Norm tuning: scale g and bias b of the norms become g + dg and b + db, both zero at the start.

Source: Zhao et al. 2023 (arXiv 2312.11420), section 2; PEFT calls it LN_TUNING.
"""

from __future__ import annotations

import jax.numpy as jnp

from adapters.methods.method import Array, Call, SiteMethod, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import Norm
from backbone.sites import NORM
from backbone.spec import EncoderSpec
from backbone.trees import Params


class NormMethod(SiteMethod[Norm]):
    spec_type = Norm

    def settings(self, spec: Norm, encoder: EncoderSpec) -> dict[Site, None]:
        return dict.fromkeys(matched_sites(spec.sites, sites_of(encoder, NORM, spec.blocks)))

    def matched(self, spec: Norm, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, NORM, spec.blocks))

    def init(self, spec: Norm, site: Site, setting: None, rng: Array) -> Params:
        return {"scale": jnp.zeros((site.outputs,)), "bias": jnp.zeros((site.outputs,))}

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        return scale + select(leaves["scale"], call.slots), bias + select(leaves["bias"], call.slots)
