"""Bias tuning: every bias b of dense layers and norms becomes b + delta, delta zero at the start.

Source: BitFit, Ben Zaken et al. 2021 (arXiv 2106.10199), section 3.
"""

from __future__ import annotations

import jax.numpy as jnp

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import Bias
from backbone.sites import LINEAR, NORM
from backbone.spec import EncoderSpec
from backbone.trees import Params


class BiasMethod(SiteMethod[Bias]):
    spec_type = Bias

    def settings(self, spec: Bias, encoder: EncoderSpec) -> dict[Site, None]:
        return dict.fromkeys(matched_sites(spec.sites, sites_of(encoder, (*LINEAR, *NORM), spec.blocks)))

    def matched(self, spec: Bias, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, (*LINEAR, *NORM), spec.blocks))

    def init(self, spec: Bias, site: Site, setting: None, rng: Array) -> Params:
        return {"delta": jnp.zeros((site.outputs,))}

    def after(self, setting: None, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        return y + select(leaves["delta"], call.slots).astype(y.dtype)

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        return scale, bias + select(leaves["delta"], call.slots)

    def merge(self, setting: None, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel, bias + leaves["delta"]
