"""Norm tuning: another scale g + dg and bias b + db of the norms; dg and db start at zero.

Source: Zhao et al. 2023 (arXiv 2312.11420), section 2; PEFT calls it LN_TUNING.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from adapters.methods.method import Array, Call, SiteMethod, select
from adapters.methods.settings import require_blocks, require_patterns
from adapters.patterns import Site
from backbone.lazy import jnp
from backbone.network.sites import NORM
from backbone.trees import Params


@dataclass(frozen=True)
class Norm(SiteMethod, tag="norm"):
    """Another scale and bias for norms (Zhao et al. 2023, arXiv 2312.11420)."""

    kinds: ClassVar[tuple[str, ...]] = NORM

    sites: tuple[str, ...] = ("attention/norm", "mlp/norm")  # patterns over norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)

    def init(self, site: Site, setting: None, rng: Array) -> Params:
        return {"scale": jnp.zeros((site.outputs,)), "bias": jnp.zeros((site.outputs,))}

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        return scale + select(leaves["scale"], call.slots), bias + select(leaves["bias"], call.slots)

    @classmethod
    def example(cls) -> Self:
        return cls()
