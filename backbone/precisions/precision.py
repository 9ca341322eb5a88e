"""The base of precisions: how the weights of a trunk are stored, and with what arithmetic they are multiplied.

    weights = precision_named("bfloat16").prepare(params)         # from the float32 weights of a backbone folder
    identity = precision_named("bfloat16").weights_id(base_id)

Hidden states, norms, softmax, adapters, heads and the optimiser are float32 in every precision. Only frozen kernels and
the tables of embeddings differ. A precision is another trunk: it has a `weights_id` of its own, made of the backbone's.
Importing this module imports no jax.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from backbone.records import digest
from backbone.trees import Params
from backbone.variants.registered import Registered, variant, variants

FLOAT32 = "float32"
TABLES = ("token", "position")  # embeddings that are read by row


class Precision(Registered, by="precision", folder="backbone.precisions", needs=("kernel", "table", "tolerance")):
    """A way to store and multiply the frozen kernels of a trunk."""

    precision: ClassVar[str]  # tag, given by the class statement: tag="bfloat16"
    factors: ClassVar[str] = "float32"  # dtype of both factors of a product with a kernel
    numerics: ClassVar[int] = 1  # raised by hand when the same weights give other numbers
    faster: ClassVar[bool] = True  # made for speed, so that `auto` may propose it; False: made for bytes
    # largest difference of a canary's logit by platform, relative to the largest logit (at least 1)
    tolerance: ClassVar[Mapping[str, float]]

    def weights_id(self, base_id: str) -> str:
        """Returns the identity of a trunk in this precision; `base_id` is that of its float32 weights."""
        return digest({"weights_id": base_id, "precision": self.precision, "numerics": self.numerics})

    def kernel(self, values: Any) -> Any:
        """Returns the leaf of a kernel, from float32 [I,O] on the host."""
        raise NotImplementedError

    def table(self, values: Any) -> Any:
        """Returns the leaf of a table of embeddings, from float32 [V,D] on the host."""
        raise NotImplementedError

    def prepare(self, params: Params) -> Params:
        """Returns the weights of a network in this precision, from float32 arrays on the host."""
        prepared: Params = {}
        for name, value in params.items():
            if isinstance(value, Mapping):
                prepared[name] = self.prepare(dict(value))
            else:
                prepared[name] = self._leaf(name, value)
        return prepared

    def _leaf(self, name: str, values: Any) -> Any:
        if name == "kernel":
            return self.kernel(values)
        return self.table(values) if name in TABLES else values


def precision_named(tag: str, where: str = "precision") -> Precision:
    """Returns a precision; raises UnknownVariant with the nearest names."""
    return variant(Precision, tag, where)()


def ids_of(base_id: str) -> Mapping[str, str]:
    """Returns the identity of a trunk in every precision, by its tag."""
    return MappingProxyType({tag: cls().weights_id(base_id) for tag, cls in variants(Precision).items()})


def precision_of(base_id: str, weights_id: str) -> str | None:
    """Returns the precision in which the trunk `base_id` has the identity `weights_id`; None: another trunk."""
    return next((tag for tag, identity in ids_of(base_id).items() if identity == weights_id), None)
