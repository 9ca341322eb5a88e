"""Prefix tuning: P learned keys and values [P, D] before those of the input, in every block.

Source: Li & Liang 2021 (arXiv 2101.00190), section 4.2, without the network that produces the prefix
in training. Every token sees the prefix, so it takes a share of the attention whatever its values:
unlike all other methods it changes the backbone's output from the start.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapters.methods.method import Array, Call, SiteMethod, select
from adapters.patterns import Site, sites_of
from adapters.specs import Prefix
from backbone.encoder import INIT_STD
from backbone.sites import ATTEND
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product


class PrefixMethod(SiteMethod[Prefix]):
    spec_type = Prefix
    identity_at_start = False

    def settings(self, spec: Prefix, encoder: EncoderSpec) -> dict[Site, Prefix]:
        return dict.fromkeys(sites_of(encoder, ATTEND, spec.blocks), spec)

    def init(self, spec: Prefix, site: Site, setting: Prefix, rng: Array) -> Params:
        key, value = INIT_STD * jax.random.normal(rng, (2, spec.length, site.inputs))
        return {"key": key, "value": value}

    def attend(self, setting: Prefix, leaves: Params, k: Array, v: Array, call: Call) -> tuple[Array, Array]:
        def before(leaf: Array, rows: Array) -> Array:
            own = select(leaf, call.slots).astype(rows.dtype)
            own = jnp.broadcast_to(own, (rows.shape[0], setting.length, rows.shape[-1]))
            return jnp.concatenate([own, rows], axis=1)

        return before(leaves["key"], k), before(leaves["value"], v)

    def work(self, setting: Prefix, site: Site, batch: int, length: int) -> Count:
        return 2 * product(length, site.inputs, setting.length, batch=batch)
