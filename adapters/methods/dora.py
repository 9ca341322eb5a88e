"""DoRA: LoRA with the direction and the magnitude of each output unit's weights apart.

    W' = m (W + s A B) / ||W + s A B||, norms over the inputs of each output unit

Source: Liu et al. 2024 (arXiv 2402.09353), equation 5; as in its section 4.3 the norm is a constant to
the gradient. The magnitude is kept relative to the backbone's: m = magnitude ||W||, with magnitude one
at the start, so that no weights are needed to begin with. The output is computed from the plain y as

    y' = y + (g - 1) (y - b) + g s (x A) B, with the gain g = magnitude ||W|| / ||W + s A B||

which is y to the last bit while B is zero. The norm needs no [I, O] product of A and B:
||W + s A B||^2 = ||W||^2 + 2 s diag(B' A' W) + s^2 diag(B' A' A B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from adapters.methods.lora import Lora, LoraSetting
from adapters.methods.method import Array, Call, Kernel, dropout, select
from adapters.patterns import Site
from backbone.lazy import jax, jnp
from backbone.trees import Params
from metering.counts import Count, elementwise, product


@dataclass(frozen=True)
class Dora(Lora, tag="dora"):
    """LoRA with direction and magnitude apart, column by column: W' = m (W + s A B) / ||W + s A B||.

    Source: Liu et al. 2024 (arXiv 2402.09353), equation 5. The fields are LoRA's. m starts at ||W||:
    exactly the identity at step 0.
    """

    leads: ClassVar[bool] = True
    has_magnitude: ClassVar[bool] = True

    def init(self, site: Site, setting: LoraSetting, rng: Array) -> Params:
        return super().init(site, setting, rng) | {"magnitude": jnp.ones((site.outputs,))}

    def after(self, setting: LoraSetting, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        a, b, magnitude = (select(leaves[name], call.slots) for name in ("a", "b", "magnitude"))
        g = magnitude * _shrinkage(kernel.kernel, a, b, setting.scale, call.slots is not None)
        low = dropout(x, setting.dropout, call.rng) @ a.astype(x.dtype) @ b.astype(x.dtype)
        plain = y if kernel.bias is None else y - kernel.bias.astype(y.dtype)
        return y + (g - 1).astype(y.dtype) * plain + (g * setting.scale).astype(y.dtype) * low

    def merge(self, setting: LoraSetting, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        a, b = leaves["a"], leaves["b"]
        g = leaves["magnitude"] * _shrinkage(kernel, a, b, setting.scale, False)
        return g * (kernel + setting.scale * a @ b), bias

    def cost(self, setting: LoraSetting, site: Site, batch: int, length: int) -> Count:
        norm = product(site.outputs, site.inputs, setting.rank)
        return super().cost(setting, site, batch, length) + norm + elementwise(batch * length * site.outputs, 5)

    @classmethod
    def example(cls) -> Self:
        return cls(rank=3)


def _shrinkage(kernel: Array, a: Array, b: Array, scale: float, banked: bool) -> Array:
    """Returns ||W|| / ||W + s A B|| of each output unit, zero where W is zero.

    [O], or [B,1,O] from A [B,I,r] and B [B,r,O] of a bank.
    """
    a, b = jax.lax.stop_gradient((a, b))
    plain = jnp.square(kernel).sum(axis=0)
    crossed = (jnp.einsum("io,...ir->...ro", kernel, a) * b).sum(axis=-2)
    squared = (jnp.einsum("...ir,...iq,...qo->...ro", a, a, b) * b).sum(axis=-2)
    whole = jnp.maximum(plain + 2 * scale * crossed + scale**2 * squared, jnp.finfo(jnp.float32).tiny)
    ratio = jnp.sqrt(plain / whole)
    return ratio[:, None, :] if banked else ratio
