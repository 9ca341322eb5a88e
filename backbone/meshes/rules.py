"""Rules that lay parameters over the axes of a mesh, by name, and the bytes that this leaves on a device.

The first rule that matches a name decides. Kernels are cut as by Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053,
section 3): the first product of a sublayer by its outputs, the second by its inputs, so that one sum ends a sublayer.
`fsdp` cuts the other dimension. What is small lies whole on every device. Imports no jax.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backbone.errors import InputError, nearest
from backbone.meshes.mesh import WHOLE, Mesh, Rule

RULES = (
    Rule("adapter.*"),
    Rule("head.*"),
    Rule("*.bias"),
    Rule("*.scale"),
    Rule("embeddings.token", ("tensor", "fsdp")),
    Rule("embeddings.position"),
    Rule("embeddings.segment"),
    Rule("embeddings.special"),
    Rule("embeddings.patch.kernel", (WHOLE, "fsdp")),
    Rule("embeddings.projection.kernel", (WHOLE, "fsdp")),
    Rule("blocks.*.mlp.*.low.kernel", ("fsdp", WHOLE)),
    Rule("blocks.*.attention.qkv.kernel", ("fsdp", "tensor")),
    Rule("blocks.*.attention.output.kernel", ("tensor", "fsdp")),
    Rule("blocks.*.mlp.up.kernel", ("fsdp", "tensor")),
    Rule("blocks.*.mlp.down.kernel", ("tensor", "fsdp")),
    Rule("pooler.dense.kernel", ("fsdp", WHOLE)),
)


@dataclass(frozen=True)
class Laid:
    """A parameter on a mesh."""

    axes: tuple[str, ...]  # axis of each dimension, "" for a whole one
    bytes_per_device: int  # bytes of the part that a device has


def axes_of(mesh: Mesh, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the axis of each dimension of a parameter, "" for a whole one.

    A dimension stays whole if its axis does not divide it, or is of size 1. Raises InputError if no rule covers the
    name.
    """
    for rule in (*mesh.rules, *RULES):
        if fnmatch.fnmatchcase(name, rule.name):
            axes = rule.axes if len(rule.axes) == len(shape) else (WHOLE,) * len(shape)
            pairs = zip(shape, axes, strict=True)
            return tuple(axis if _cuts(mesh, axis, size) else WHOLE for size, axis in pairs)
    raise InputError(
        f"mesh.rules: no rule covers the parameter {name}; add one (the names of rules: "
        f"{nearest(name, [rule.name for rule in (*mesh.rules, *RULES)])})"
    )


def _cuts(mesh: Mesh, axis: str, size: int) -> bool:
    return bool(axis) and mesh.sizes[axis] > 1 and size % mesh.sizes[axis] == 0


def check_rules(mesh: Mesh, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError unless every parameter is covered, and every rule of the user's own fits what it matches."""
    for name, shape in shapes.items():
        axes_of(mesh, name, shape)
    for rule in mesh.rules:
        matched = {name: shape for name, shape in shapes.items() if fnmatch.fnmatchcase(name, rule.name)}
        if not matched:
            raise InputError(f"mesh.rules: {rule.name!r} matches no parameter; {nearest(rule.name, shapes)}")
        for name, shape in matched.items():
            if rule.axes and len(rule.axes) != len(shape):
                raise InputError(
                    f"mesh.rules: {rule.name!r} has {len(rule.axes)} axes, and {name} {len(shape)} dimensions"
                )
            for size, axis in zip(shape, rule.axes, strict=bool(rule.axes)):
                if axis and size % mesh.sizes[axis]:
                    raise InputError(
                        f"mesh.rules: {rule.name!r}: mesh.{axis}={mesh.sizes[axis]} does not divide {size} of {name}"
                    )


def laid_out(mesh: Mesh, shapes: Mapping[str, tuple[int, ...]], itemsize: int = 4) -> dict[str, Laid]:
    """Returns how each parameter lies on the mesh, by name; `itemsize` is the bytes of a scalar."""
    laid = {}
    for name, shape in shapes.items():
        axes = axes_of(mesh, name, shape)
        parts = math.prod(mesh.sizes[axis] for axis in axes if axis)
        laid[name] = Laid(axes, math.prod(shape) * itemsize // parts)
    return laid


def bytes_per_device(laid: Iterable[Laid]) -> int:
    """Returns the bytes of all parts that a device has."""
    return sum(part.bytes_per_device for part in laid)
