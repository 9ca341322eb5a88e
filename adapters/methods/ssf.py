"""SSF: scale and shift y g + s after dense layers and norms; g starts at one, s at zero.

Source: Lian et al. 2022 (arXiv 2210.08823), equation 3.
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
class SSF(SiteMethod, tag="ssf"):
    """Scale and shift of the outputs of dense layers and norms.

    Source: Lian et al. 2022 (arXiv 2210.08823), equation 3. Scales start at one, shifts at zero.
    """

    kinds: ClassVar[tuple[str, ...]] = (*LINEAR, *NORM)

    sites: tuple[str, ...] = ("attention/*", "mlp/*")  # patterns over linear and norm sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_blocks(self.blocks)
        require_patterns(sites=self.sites)

    def init(self, site: Site, setting: None, rng: Array) -> Params:
        return {"scale": jnp.ones((site.outputs,)), "shift": jnp.zeros((site.outputs,))}

    def after(self, setting: None, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        scale, shift = (select(leaves[name], call.slots).astype(y.dtype) for name in ("scale", "shift"))
        return y * scale + shift

    def norm(self, setting: None, leaves: Params, scale: Array, bias: Array, call: Call) -> tuple[Array, Array]:
        factor = select(leaves["scale"], call.slots)
        return scale * factor, bias * factor + select(leaves["shift"], call.slots)

    def merge(self, setting: None, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel * leaves["scale"], bias * leaves["scale"] + leaves["shift"]

    @classmethod
    def example(cls) -> Self:
        return cls()
