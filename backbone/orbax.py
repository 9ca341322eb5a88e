"""Orbax's v1 API in the few calls that we use, for everything large or resumable.

Orbax casts a stored dtype to the requested one without a word, so both are compared here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

try:
    from orbax.checkpoint import v1 as ocp  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # before it becomes top level
    from orbax.checkpoint.experimental import v1 as ocp

from backbone.errors import InputError
from backbone.trees import Params, flatten, map_leaves, require_same_structure, unflatten

__all__ = ["load_tree", "ocp", "reading", "save_tree"]

T = TypeVar("T")


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for a failed read of a damaged checkpoint beside the one whose error is reported.

    Orbax leaves such reads as asyncio tasks whose result nobody fetches. Each would print a traceback whenever it is
    collected. Inside an `ast.parse` of CPython before 3.13 that raises SystemError (gh-106905).
    """
    error = record.exc_info[1] if record.exc_info else None
    return "never retrieved" not in record.getMessage() or "tensorstore_spec" not in str(error)


logging.getLogger("asyncio").addFilter(_is_news)


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes a tree of arrays to a new folder."""
    ocp.save(path.absolute(), flatten(tree))


def load_tree(path: Path, abstract: Mapping[str, Any], what: str) -> Params:
    """Reads a tree as numpy arrays; `what` names it in messages.

    Raises InputError unless shapes and dtypes equal those of `abstract`.
    """

    def load() -> dict[str, Any]:
        stored = ocp.metadata(path.absolute()).metadata
        require_same_structure(unflatten(stored), abstract, what)
        arrays = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in flatten(abstract).items()}
        return dict(ocp.load(path.absolute(), arrays))

    return map_leaves(np.asarray, unflatten(reading(load, what)))


def reading(read: Callable[[], T], what: str, remedy: str = "") -> T:
    """Returns the value of `read`; whatever it raises becomes an InputError about `what`, with `remedy` at its end."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sharding info not provided")
            return read()
    except InputError:
        raise
    except Exception as error:  # Orbax and tensorstore raise a dozen kinds for a damaged folder
        name = type(error).__name__
        raise InputError(f"{what}: not readable as an Orbax checkpoint: {name}: {error}{remedy}") from error


def host(tree: Mapping[str, Any]) -> Params:
    """Returns a copy of the tree in host memory, fetched in one transfer."""
    return map_leaves(np.asarray, jax.device_get(dict(tree)))
