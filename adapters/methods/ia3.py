"""IA3: learned scales of activations (Liu et al. 2022, arXiv 2205.05638, section 3.3), one at the start.

At `scale_outputs` the product's output is scaled, bias included (keys, values); at `scale_inputs` the
product's input is (the mlp's hidden units before the second dense layer).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax.numpy as jnp

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.patterns import Site, match, matched_sites, sites_of
from adapters.specs import IA3
from backbone.errors import InputError
from backbone.sites import LINEAR
from backbone.spec import EncoderSpec
from backbone.trees import Params

Side: TypeAlias = Literal["input", "output"]


class IA3Method(SiteMethod[IA3]):
    spec_type = IA3

    def settings(self, spec: IA3, encoder: EncoderSpec) -> dict[Site, Side]:
        everywhere = sites_of(encoder, LINEAR, spec.blocks)
        outputs = matched_sites(spec.scale_outputs, everywhere, "scale_outputs")
        inputs = matched_sites(spec.scale_inputs, everywhere, "scale_inputs")
        both = sorted({site.name for site in set(outputs) & set(inputs)})
        if both:
            raise InputError(f"scale_inputs: {', '.join(both)} is in scale_outputs too; a site is scaled once")
        sides: dict[Site, Side] = dict.fromkeys(outputs, "output")
        sides.update(dict.fromkeys(inputs, "input"))
        return sides

    def matched(self, spec: IA3, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        everywhere = sites_of(encoder, LINEAR, spec.blocks)
        return match(spec.scale_outputs, everywhere) | match(spec.scale_inputs, everywhere)

    def init(self, spec: IA3, site: Site, setting: Side, rng: Array) -> Params:
        return {"scale": jnp.ones((site.outputs if setting == "output" else site.inputs,))}

    def changes_input(self, site_name: str, setting: Side) -> bool:
        return setting == "input"

    def before(self, setting: Side, leaves: Params, x: Array, call: Call) -> Array:
        return x * select(leaves["scale"], call.slots).astype(x.dtype) if setting == "input" else x

    def after(self, setting: Side, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        return y * select(leaves["scale"], call.slots).astype(y.dtype) if setting == "output" else y

    def merge(self, setting: Side, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        scale = leaves["scale"]
        return (kernel * scale, bias * scale) if setting == "output" else (kernel * scale[:, None], bias)
