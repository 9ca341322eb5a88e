"""bfloat16: kernels and their inputs in bfloat16, results in float32.

Products whose result is bfloat16 are no faster than float32 on XLA:CPU. With a float32 result they run on the
processor's bfloat16 units, where it has some, and nothing but the two factors is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

from backbone.lazy import jax, jnp
from backbone.network.stored import Array, StoredKernel, register
from backbone.precisions.precision import Precision


@dataclass(frozen=True)
class Bfloat16Kernel(StoredKernel):
    """A kernel in bfloat16."""

    values: Array  # bfloat16 [I,O]

    rounds_states: ClassVar[bool] = True

    def times(self, x: Array) -> Array:
        return _product(x, self.values, contracted=0)

    def transposed_times(self, g: Array) -> Array:
        return _product(g, self.values, contracted=1)

    def columns(self, part: slice) -> Self:
        return type(self)(self.values[:, part])

    def dense(self) -> Array:
        return self.values.astype(jnp.float32)


def _product(x: Array, kernel: Array, *, contracted: int) -> Array:
    """Computes x [N,K], rounded to bfloat16, times a bfloat16 kernel along its axis `contracted`: float32."""
    axes = (((1,), (contracted,)), ((), ()))
    return jax.lax.dot_general(x.astype(jnp.bfloat16), kernel, axes, preferred_element_type=jnp.float32)


class Bfloat16(Precision, tag="bfloat16"):
    """Kernels and tables in bfloat16; products of bfloat16 factors, added up in float32."""

    factors: ClassVar[str] = "bfloat16"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({"cpu": 1e-1, "gpu": 1e-1, "tpu": 1e-1})

    def kernel(self, values: Any) -> Any:
        register(Bfloat16Kernel)
        return Bfloat16Kernel(self.table(values))

    def table(self, values: Any) -> Any:
        return values.astype(jnp.bfloat16)
