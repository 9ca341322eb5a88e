"""Parameter trees: nested dicts with string keys, flattened to dotted paths and back.

Weights have this one form everywhere: `{"blocks": {"0": {"mlp": {...}}}}` in memory, `blocks.0.mlp...` in files, hashes
and messages. Keys hold no dot; site names keep their slash (`attention/query`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backbone.errors import InputError, nearest, shown

Params = dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves by dotted path, sorted by path. Empty dicts vanish."""
    leaves: dict[str, Any] = {}

    def visit(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if not isinstance(key, str) or "." in key or not key:
                raise ValueError(f"{prefix}{key!r}: keys of a parameter tree are strings without dots")
            if isinstance(value, Mapping):
                visit(value, f"{prefix}{key}.")
            else:
                leaves[f"{prefix}{key}"] = value

    visit(tree, "")
    return dict(sorted(leaves.items()))


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """Returns the nested dict from which `flatten` made these leaves; raises InputError for names that it never gives.

    Those are names with an empty part, and a name that begins another one, as `a` and `a.b`.
    """
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node
        if not (last and all(parents) and isinstance(node, dict)) or last in node:
            raise InputError(f"{shown(path)}: is no name of a parameter, or begins the name of another one")
        node[last] = leaf
    return tree


def map_leaves(function: Callable[[Any], Any], tree: Mapping[str, Any]) -> Params:
    """Returns a tree of the same shape with `function` applied to each leaf."""
    return {k: map_leaves(function, v) if isinstance(v, Mapping) else function(v) for k, v in tree.items()}


def count(tree: Mapping[str, Any]) -> int:
    """Returns the number of scalars in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each leaf by dotted path."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def describe(leaf: Any) -> str:
    """Returns dtype and shape of a leaf in words: `float32[384,8]`."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def content_hash(tree: Mapping[str, Any], identity: str) -> str:
    """Returns `sha256:<hex>` over the identity text and every leaf's path, dtype, shape and bytes, by path.

    The leaves' bytes are little-endian, row-major. Two trees share an id only if all of it is equal.
    """
    state = hashlib.sha256(f"{len(identity)}:{identity}".encode())
    for path, leaf in flatten(tree).items():
        array = np.ascontiguousarray(np.asarray(leaf))
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        state.update(f"\n{len(path)}:{path} {array.dtype.name} {array.shape}\n".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return "sha256:" + state.hexdigest()


def require_same_structure(tree: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Raises InputError listing every missing, extra, misshapen or mistyped leaf of `tree`; `what` names the tree."""
    have, want = flatten(tree), flatten(expected)
    problems = [f"missing {path} {describe(want[path])}" for path in want if path not in have]
    problems += [f"unexpected {path} ({nearest(path, want)})" for path in have if path not in want]
    for path in want.keys() & have.keys():
        if describe(have[path]) != describe(want[path]):
            problems.append(f"{path} is {describe(have[path])}, expected {describe(want[path])}")
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(f"{what}: {len(problems)} tensors do not fit:\n  {shown}{more}")
