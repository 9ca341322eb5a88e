"""float32: the weights as they are stored in a backbone folder."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from backbone.precisions.precision import Precision


class Float32(Precision, tag="float32"):
    """Weights and products in float32. Its identity is that of the backbone."""

    # accelerators multiply float32 in shorter formats unless they are asked not to
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({"cpu": 1e-4, "gpu": 2e-2, "tpu": 2e-2})

    def weights_id(self, base_id: str) -> str:
        return base_id

    def kernel(self, values: Any) -> Any:
        return values

    def table(self, values: Any) -> Any:
        return values
