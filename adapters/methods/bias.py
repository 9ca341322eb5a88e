"""Bias tuning: every bias b of dense layers and norms becomes b + delta, delta zero at the start.

Source: BitFit, Ben Zaken et al. 2021 (arXiv 2106.10199), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.methods.settings import require_blocks, require_patterns
from adapters.patterns import Site
from backbone.lazy import jnp
from backbone.network.sites import LINEAR, NORM
from backbone.trees import Params


@dataclass(frozen=True)
class Bias(SiteMethod, tag="bias"):
    """Another bias for dense layers and norms (BitFit: Ben Zaken et al. 2021, arXiv 2106.10199)."""

    kinds: ClassVar[tuple[str, ...]] = (*LINEAR, *NORM)

    sites: tuple[str, ...] = ("attention/*", "mlp/*")  # patterns over linear and norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)

    def init(self, site: Site, setting: None, rng: Array) -> Params:
        return {"delta": jnp.zeros((site.outputs,))}

    def after(self, setting: None, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        return y + select(leaves["delta"], call.slots).astype(y.dtype)

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        return scale, bias + select(leaves["delta"], call.slots)

    def merge(self, setting: None, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel, bias + leaves["delta"]

    @classmethod
    def example(cls) -> Self:
        return cls()
