"""A mesh as data: the sizes of its three axes, and rules of a user's own. Imports no jax.

    Mesh(data=4, tensor=2)        # eight devices: four groups with rows of their own, each product in two parts
    Mesh(data="auto")             # every device has rows of its own

The axes are those of GSPMD (Xu et al. 2021, arXiv 2105.04663) and of fully sharded data parallelism (Rajbhandari et al.
2020, arXiv 1910.02054). Rows of a batch lie over `data` and `fsdp` together. Kernels and their moments lie over `fsdp`
and `tensor`, as `backbone.meshes.rules` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from backbone.errors import InputError

AXES = ("data", "fsdp", "tensor")  # from the outermost in
WHOLE = ""  # entry of a rule: this dimension is on every device


@dataclass(frozen=True)
class Rule:
    """The axes of the mesh over which the dimensions of some parameters lie."""

    name: str  # pattern over names of parameters: blocks.*.mlp.up.kernel
    axes: tuple[str, ...] = ()  # fsdp, tensor or "" for each dimension, the first one first; () = whole on every device

    def __post_init__(self) -> None:
        for axis in self.axes:
            if axis not in (WHOLE, "fsdp", "tensor"):
                raise InputError(f"axes: {axis!r} is no axis of parameters; fsdp, tensor, or nothing for a whole one")
        laid = [axis for axis in self.axes if axis]
        if len(set(laid)) < len(laid):
            raise InputError(f"axes: {laid[0]} can divide one dimension of {self.name}, not two")


@dataclass(frozen=True)
class Mesh:
    """The devices of a run by three axes; the default is one device."""

    data: int | Literal["auto"] = 1  # groups of devices with rows of their own; auto = all that the other axes leave
    fsdp: int = 1  # groups with rows of their own that share the parameters among them
    tensor: int = 1  # devices that share each product of the same rows
    rules: tuple[Rule, ...] = ()  # rules of one's own, tried before those that come with Topgraft

    def __post_init__(self) -> None:
        for name in AXES:
            size = getattr(self, name)
            if size != "auto" and size < 1:
                raise InputError(f"{name}: must be at least 1, got {size}")

    @property
    def size(self) -> int:
        """Returns the number of devices; an open `data` counts as 1."""
        return math.prod(self.sizes.values())

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the size of each axis, by name."""
        return {name: size if (size := getattr(self, name)) != "auto" else 1 for name in AXES}

    @property
    def shards(self) -> int:
        """Returns the parts in which the rows of a batch lie."""
        return self.sizes["data"] * self.fsdp

    def resolved(self, devices: int) -> Mesh:
        """Returns the mesh of `devices` devices. Raises InputError where they cannot be divided so."""
        if devices % self.size or (self.data != "auto" and self.size > devices):
            axes = ", ".join(f"mesh.{name}={getattr(self, name)}" for name in AXES)
            whole = [number for number in range(1, devices + 1) if devices % number == 0]
            raise InputError(
                f"mesh: {axes} takes {self.size} devices, which does not divide the {devices} of this run; "
                f"choose a product of {', '.join(map(str, whole))}, or mesh.data=auto"
            )
        return replace(self, data=devices // self.size) if self.data == "auto" else self

    def check_batch(self, rows: int) -> None:
        """Raises InputError unless a micro-batch of `rows` rows can be divided among the devices."""
        if rows % self.shards:
            low = rows // self.shards * self.shards
            fitting = " or ".join(str(size) for size in (low, low + self.shards) if size)
            raise InputError(
                f"batch_size: {rows} rows cannot be divided among {self.shards} groups of devices "
                f"(mesh.data={self.data} times mesh.fsdp={self.fsdp}); take {fitting}"
            )
