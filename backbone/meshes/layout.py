"""Arrays on the devices of a mesh: parameters by the rules, rows of a batch over `data` and `fsdp`.

    layout = layout_of(Mesh(data=4, fsdp=2))
    params = layout.params(params)                # each leaf where its rule says
    batch = layout.batch({"ids": ids, ...})       # rows over data and fsdp
    state = step(state, ...)                      # `layout.constrained` inside keeps the state where it was

One device is the mesh of one: its arrays stay on the default device, and nothing is constrained. With several processes
(`jax.distributed`) every process calls the same functions with the same values, and places the part that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from backbone.errors import InputError
from backbone.lazy import jax
from backbone.meshes.mesh import AXES, Mesh
from backbone.meshes.rules import axes_of

if TYPE_CHECKING:
    from jax.sharding import NamedSharding

T = TypeVar("T")

ROWS = ("data", "fsdp")  # axes over which the rows of a batch lie
AROUND = frozenset(
    ("state", "live", "optimizer", "gradient", "start", "fixed", "graft", "backbone")
)  # keys around a parameter


@dataclass(frozen=True)
class Layout:
    """A mesh on its devices."""

    mesh: Mesh  # with the size of every axis
    devices: tuple[Any, ...] = ()  # devices in the order of the axes; () = the default one

    @property
    def shards(self) -> int:
        """Returns the parts in which the rows of a batch lie."""
        return self.mesh.shards

    @property
    def sums(self) -> str:
        """Returns the name of the order in which products are summed up; "" for that of one device."""
        cut = [f"{name}{self.mesh.sizes[name]}" for name in ("fsdp", "tensor") if self.mesh.sizes[name] > 1]
        return " ".join(cut)

    @cached_property
    def grid(self) -> jax.sharding.Mesh:
        """Returns the devices as jax's mesh."""
        shape, auto = tuple(self.mesh.sizes.values()), jax.sharding.AxisType.Auto
        return jax.sharding.Mesh(np.array(self.devices).reshape(shape), AXES, axis_types=(auto,) * len(AXES))

    def sharding(self, *axes: Any) -> NamedSharding:
        """Returns the sharding of an array with these axes of the mesh for its first dimensions."""
        spec = jax.sharding.PartitionSpec(*axes)  # type: ignore[no-untyped-call]
        return jax.sharding.NamedSharding(self.grid, spec)

    def shardings(self, tree: T) -> T:
        """Returns the shardings of a tree of parameters, or of one with such trees inside, as an optimiser's state."""
        return jax.tree_util.tree_map_with_path(self._of_leaf, tree)  # type: ignore[no-any-return]

    def _of_leaf(self, path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name, shape = parameter_name(path), tuple(leaf.shape)
        axes = axes_of(self.mesh, name, shape) if name and shape else ()
        cut = max((number for number, axis in enumerate(axes, 1) if axis), default=0)
        return self.sharding(*(axis or None for axis in axes[:cut]))  # as jax writes what a program returns

    def params(self, tree: T) -> T:
        """Places a tree of parameters, or of a loop's state, by the rules."""
        return self._placed(tree, self.shardings) if self.mesh.size > 1 else jax.device_put(tree)

    def batch(self, tree: T) -> T:
        """Places arrays on the host with rows first; each device with rows of its own gets its part."""
        rows = lambda tree: jax.tree.map(lambda leaf: self.sharding(ROWS), tree)  # noqa: E731
        return self._placed(tree, rows) if self.mesh.size > 1 else jax.device_put(tree)

    def share(self, rows: int) -> np.ndarray | None:
        """Returns which rows of a batch the devices of this process get, bool [rows]; None for all of them."""
        if self.mesh.size == 1 or self.is_local:
            return None
        share = np.zeros(rows, np.bool_)
        for part in self.sharding(ROWS).addressable_devices_indices_map((rows,)).values():
            share[part] = True
        return share

    def whole(self, tree: T) -> T:
        """Places arrays whole on every device."""
        everywhere = lambda tree: jax.tree.map(lambda leaf: self.sharding(), tree)  # noqa: E731
        return self._placed(tree, everywhere) if self.mesh.size > 1 else jax.device_put(tree)

    def _placed(self, tree: T, shardings: Any) -> T:
        if self.is_local:
            return jax.device_put(tree, shardings(tree))  # type: ignore[no-any-return]
        with jax.transfer_guard("allow"):  # a callback is no explicit transfer
            return jax.tree.map(_part, tree, shardings(tree))  # type: ignore[no-any-return]

    @property
    def is_local(self) -> bool:
        """Returns whether this process reaches every device of the mesh."""
        return all(device.process_index == jax.process_index() for device in self.devices)

    def constrained(self, tree: T) -> T:
        """Returns a traced tree of parameters, or of a loop's state, held where `params` places it."""
        if self.mesh.size == 1:
            return tree
        placed: T = jax.lax.with_sharding_constraint(tree, self.shardings(tree))  # type: ignore[no-untyped-call]
        return placed

    def fetched(self, tree: Any) -> Any:
        """Returns whole arrays in the memory of the host; every process gets all of them."""
        if not self.is_local:
            tree = _gathered(self)(tree)
        return jax.device_get(tree)


ONE = Layout(Mesh())  # the default device


def layout_of(mesh: Mesh, devices: Sequence[Any] | None = None) -> Layout:
    """Returns the mesh on `devices`, by default the first ones of all processes.

    Raises InputError where they cannot be divided so, or where a process would have none.
    """
    if mesh == Mesh() and devices is None and jax.process_count() == 1:
        return ONE
    devices = jax.devices() if devices is None else devices
    resolved = mesh.resolved(len(devices))
    if jax.process_count() > 1 and resolved.size < len(devices):
        raise InputError(
            f"mesh: {jax.process_count()} processes have {len(devices)} devices, and the mesh takes {resolved.size}; "
            "set mesh.data=auto, or start as many processes as the mesh needs"
        )
    return Layout(resolved, tuple(devices[: resolved.size]) if resolved.size > 1 else ())


def parameter_name(path: tuple[Any, ...]) -> str:
    """Returns the dotted name of the parameter that a leaf of a tree belongs to; "" for one that belongs to none.

    A moment belongs to the parameter whose keys end its path; an array of a stored kernel to the kernel.
    """
    keys = list(path)
    while keys and not isinstance(keys[-1], jax.tree_util.DictKey):
        keys.pop()
    names: list[str] = []
    while keys and isinstance(keys[-1], jax.tree_util.DictKey):
        names.insert(0, str(keys.pop().key))
    while names and names[0] in AROUND:
        names.pop(0)
    return ".".join(names)


def _part(leaf: Any, sharding: NamedSharding) -> Any:
    """Places the parts of an array that this process holds; every process has the whole array."""
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _gathered(layout: Layout) -> Any:
    """Returns the compiled program that gathers a tree whole on every device."""
    return jax.jit(lambda tree: tree, out_shardings=layout.sharding())
