"""LoHa: y + s x ((A1 B1) * (A2 B2)), the product, entry by entry, of two matrices of low rank.

The update has a rank of up to r^2, with twice the parameters of LoRA of rank r.
Source: Hyeon-Woo et al. 2022 (ICLR, arXiv 2108.06098, FedPara), section 2.2, proposition 1; the scale s = alpha / r is
that of LoRA.
Shapes: I inputs, O outputs of a site, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from adapters.methods.lora import Lora, LoraSetting
from adapters.methods.method import Array, Call, Kernel, dropout, select
from adapters.patterns import Site
from backbone.lazy import jax, jnp
from backbone.trees import Params
from metering.counts import Count, elementwise, product


@dataclass(frozen=True)
class Loha(Lora, tag="loha"):
    """Update of linear sites by the entrywise product of two low-rank matrices; the fields are LoRA's.

    Source: Hyeon-Woo et al. 2022 (ICLR). B2 starts at zero: exactly the identity at step 0.
    """

    rank_axes: ClassVar[Mapping[str, int]] = {"a1": 1, "b1": 0, "a2": 1, "b2": 0}
    scaled: ClassVar[str] = "b2"

    def init(self, site: Site, setting: LoraSetting, rng: Array) -> Params:
        keys, rank = jax.random.split(rng, 3), setting.rank
        return {
            "a1": jax.random.normal(keys[0], (site.inputs, rank)) / site.inputs**0.5,
            "b1": jax.random.normal(keys[1], (rank, site.outputs)),
            "a2": jax.random.normal(keys[2], (site.inputs, rank)),
            "b2": jnp.zeros((rank, site.outputs)),
        }

    def after(self, setting: LoraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        a1, b1, a2, b2 = (select(leaves[name], call.slots).astype(x.dtype) for name in ("a1", "b1", "a2", "b2"))
        # The update is a product of matrices of rank R^2, so that no matrix of the kernel's size is made.
        pairs = a1.shape[-1] ** 2
        a = (a1[..., :, None] * a2[..., None, :]).reshape(*a1.shape[:-1], pairs)  # [...,I,R^2]
        b = (b1[..., :, None, :] * b2[..., None, :, :]).reshape(*b1.shape[:-2], pairs, b1.shape[-1])  # [...,R^2,O]
        return y + setting.scale * (dropout(x, setting.dropout, call.rng) @ a) @ b

    def merge(self, setting: LoraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        return kernel + setting.scale * (leaves["a1"] @ leaves["b1"]) * (leaves["a2"] @ leaves["b2"]), bias

    def cost(self, setting: LoraSetting, site: Site, batch: int, length: int) -> Count:
        pairs = setting.rank**2
        factors = elementwise((site.inputs + site.outputs) * pairs, 1)
        down, up = product(batch * length, site.inputs, pairs), product(batch * length, pairs, site.outputs)
        return factors + down + up
