"""Bottleneck adapters f(h) = act(h D + d) U + u at sublayer sites; U and u start at zero.

Houlsby et al. 2019 (arXiv 1902.00751): y + f(y) after attention and mlp. Pfeiffer et al. 2020 (arXiv
2005.00247): after the mlp only. Parallel, He et al. 2021 (arXiv 2110.04366): y + s f(x) beside the mlp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal, Self

import numpy as np

from adapters.methods.method import Array, Call, SiteMethod, dropout, select
from adapters.methods.settings import require_blocks, require_fraction, require_positive
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.lazy import jax, jnp
from backbone.network.sites import SUBLAYER
from backbone.spec import EncoderSpec
from backbone.trees import Params
from metering.counts import Count, product

PLACES = {"houlsby": ("attention", "mlp"), "pfeiffer": ("mlp",), "parallel": ("mlp",)}


@dataclass(frozen=True)
class Bottleneck(SiteMethod, tag="bottleneck"):
    """Small two-layer network f(h) = act(h D + d) U + u at sublayer sites, U zero at the start.

    `houlsby`: y + f(y) after the attention and the mlp sublayer (Houlsby et al. 2019, arXiv
    1902.00751, figure 2); `pfeiffer`: the same after the mlp only (Pfeiffer et al. 2020, arXiv
    2005.00247); `parallel`: y + s f(x) beside the mlp (He et al. 2021, arXiv 2110.04366, table 1).
    x is the sublayer's input, y its output before the residual sum and norm.
    """

    kinds: ClassVar[tuple[str, ...]] = SUBLAYER
    free_in_bank: ClassVar[tuple[str, ...]] = ("width", "scale", "dropout", "blocks")
    rank_axes: ClassVar[Mapping[str, int]] = MappingProxyType({"down": 1, "down_bias": 0, "up": 0})

    width: int = 48  # hidden units
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"  # sublayers, and after or beside them
    activation: Literal["relu", "gelu", "silu"] = "relu"  # nonlinearity of the hidden units
    scale: float = 1.0  # factor s, for parallel (the paper's best: 4)
    dropout: float = 0.0  # probability on the hidden units, in training only
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_positive(width=self.width, scale=self.scale)
        require_fraction(dropout=self.dropout)
        require_blocks(self.blocks)

    def groups(self, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        return {"": tuple(site for site in self.candidates(encoder) if site.name in PLACES[self.placement])}

    def settings(self, encoder: EncoderSpec) -> dict[Site, Bottleneck]:
        return dict.fromkeys(self.chosen(encoder), self)

    def init(self, site: Site, setting: Bottleneck, rng: Array) -> Params:
        from backbone.network.encoder import INIT_STD

        return {
            "down": INIT_STD * jax.random.normal(rng, (site.inputs, self.width)),
            "down_bias": jnp.zeros((self.width,)),
            "up": jnp.zeros((self.width, site.outputs)),
            "up_bias": jnp.zeros((site.outputs,)),
        }

    def sublayer(self, setting: Bottleneck, leaves: Params, x: Array, y: Array, call: Call) -> Array:
        from backbone.network.activations import ACTIVATIONS

        p = {name: select(leaf, call.slots).astype(y.dtype) for name, leaf in leaves.items()}
        h = x if setting.placement == "parallel" else y
        hidden = ACTIVATIONS[setting.activation](h @ p["down"] + p["down_bias"])
        f = dropout(hidden, setting.dropout, call.rng) @ p["up"] + p["up_bias"]
        return y + (setting.scale * f if setting.placement == "parallel" else f)

    def cost(self, setting: Bottleneck, site: Site, batch: int, length: int) -> Count:
        tokens = batch * length
        return product(tokens, site.inputs, setting.width) + product(tokens, setting.width, site.outputs)

    def bank_leaves(self, setting: Bottleneck, leaves: Params, shared: Bottleneck) -> Params:
        """Adds hidden units of zeros up to the bank's width; multiplies U and u by the scales' ratio."""
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

    def widest(self, other: Self, encoder: EncoderSpec) -> Self | None:
        lowest = min(site.block for method in (self, other) for site in method.settings(encoder))
        blocks = self.blocks if self.blocks == other.blocks else f"{lowest}:"
        return replace(self, width=max(self.width, other.width), dropout=0.0, blocks=blocks)

    @classmethod
    def example(cls) -> Self:
        return cls(width=5)
