"""Kernels and tables that are stored in fewer bytes than float32, and what the network asks of them.

The network asks for products, rows and columns; it never asks how they are stored. A precision (`backbone.precisions`)
makes such a leaf of a float32 array and gives it the arithmetic. A leaf of this kind is frozen: a gradient passes
through its product to the states, never to the stored values. Importing this module imports no jax.

Shapes: N rows, I inputs, O outputs, V rows of a table, D width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias

from backbone.lazy import jax, jnp

Array: TypeAlias = "jax.Array"
STATIC = MappingProxyType({"static": True})  # metadata of a leaf's field that is a number known to the compiler


class Stored:
    """A leaf of stored values: a frozen dataclass of arrays; by default `values` has the shape of the float32 array."""

    values: Array

    exact_rows: ClassVar[bool] = False  # the bits of a row that is made of it hang on that row alone

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the float32 array that this leaf stands for."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> Any:
        """Returns the dtype of the stored values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all arrays of the leaf."""
        return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(self))

    def dense(self) -> Array:
        """Returns the values as a float32 array."""
        raise NotImplementedError


class StoredKernel(Stored):
    """A frozen kernel [I,O]."""

    rounds_states: ClassVar[bool] = False  # the product rounds the states that it is given to 8 bits or fewer

    def times(self, x: Array) -> Array:
        """Computes x float32 [N,I] times this kernel: float32 [N,O]."""
        raise NotImplementedError

    def transposed_times(self, g: Array) -> Array:
        """Computes g float32 [N,O] times this kernel's transposition: float32 [N,I], the gradient of the input."""
        raise NotImplementedError

    def columns(self, part: slice) -> Self:
        """Returns the kernel of some of the outputs."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Self:
        """Returns the leaf itself for `...`, which is how the network reads a parameter."""
        if key is not Ellipsis:
            raise TypeError(f"a stored kernel is read by `...`, `columns` or `dense`, not by {key!r}")
        return self


class StoredTable(Stored):
    """A frozen table [V,D], read by rows."""

    def rows(self, key: Any) -> Array:
        """Returns the rows of an index array or a slice, float32 [...,D]."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Any:
        """Returns the leaf itself for `...`, and otherwise rows."""
        return self if key is Ellipsis else self.rows(key)


@dataclasses.dataclass(frozen=True)
class LowRankKernel:
    """A kernel [I,O] as the product of two, [I,R] and [R,O]; either may be stored in fewer bytes."""

    first: Array | StoredKernel  # [I,R]
    second: Array | StoredKernel  # [R,O]

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns (I, O)."""
        return self.first.shape[0], self.second.shape[1]

    def dense(self) -> Array:
        """Returns the product as a float32 array."""
        return dense(self.first) @ dense(self.second)


FrozenKernel: TypeAlias = "Array | StoredKernel | LowRankKernel"


@functools.cache
def register(cls: type[Stored]) -> None:
    """Tells jax, once, that a class of leaves is a tree of its arrays; fields with `STATIC` are no arrays."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    static = [field.name for field in fields if field.metadata.get("static")]
    arrays = [field.name for field in fields if field.name not in static]
    jax.tree_util.register_dataclass(cls, data_fields=arrays, meta_fields=static)


def has_exact_rows(leaf: FrozenKernel | StoredTable) -> bool:
    """Returns whether a row of a kernel's products, or of a table, has the same bits in every batch."""
    return isinstance(leaf, Stored) and leaf.exact_rows


def rounds_states(kernel: FrozenKernel) -> bool:
    """Returns whether this kernel's products begin with states rounded to 8 bits or fewer."""
    first = kernel.first if isinstance(kernel, LowRankKernel) else kernel
    return isinstance(first, StoredKernel) and first.rounds_states


def dense(kernel: FrozenKernel) -> Array:
    """Returns a kernel as a float32 array [I,O]."""
    return kernel.astype(jnp.float32) if not isinstance(kernel, (StoredKernel, LowRankKernel)) else kernel.dense()


def columns(kernel: FrozenKernel, widths: Sequence[int]) -> list[FrozenKernel]:
    """Returns the kernels of groups of outputs, `widths` wide, that lie side by side in `kernel`."""
    ends = list(itertools.accumulate(widths))
    parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    if isinstance(kernel, LowRankKernel):
        return [LowRankKernel(kernel.first, _columns(kernel.second, part)) for part in parts]
    return [_columns(kernel, part) for part in parts]


def _columns(kernel: Array | StoredKernel, part: slice) -> Array | StoredKernel:
    return kernel.columns(part) if isinstance(kernel, StoredKernel) else kernel[:, part]
