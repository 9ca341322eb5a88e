"""SSF: scale and shift, y g + s, after dense layers and norms; g one and s zero at the start.

Source: Lian et al. 2022 (arXiv 2210.08823), equation 3.
"""

from __future__ import annotations

import jax.numpy as jnp

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import SSF
from backbone.sites import LINEAR, NORM
from backbone.spec import EncoderSpec
from backbone.trees import Params


class SSFMethod(SiteMethod[SSF]):
    spec_type = SSF

    def settings(self, spec: SSF, encoder: EncoderSpec) -> dict[Site, None]:
        return dict.fromkeys(matched_sites(spec.sites, sites_of(encoder, (*LINEAR, *NORM), spec.blocks)))

    def matched(self, spec: SSF, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return match(spec.sites, sites_of(encoder, (*LINEAR, *NORM), spec.blocks))

    def init(self, spec: SSF, site: Site, setting: None, rng: Array) -> Params:
        return {"scale": jnp.ones((site.outputs,)), "shift": jnp.zeros((site.outputs,))}

    def after(self, setting: None, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        scale, shift = (select(leaves[name], call.slots).astype(y.dtype) for name in ("scale", "shift"))
        return y * scale + shift

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        own = select(leaves["scale"], call.slots)
        return scale * own, bias * own + select(leaves["shift"], call.slots)

    def merge(self, setting: None, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel * leaves["scale"], bias * leaves["scale"] + leaves["shift"]
