"""Orbax's v1 API in the few calls we use: what is large or resumable goes through it.

Orbax casts a stored dtype to the requested one without a word, so both are compared here.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

try:
    from orbax.checkpoint import v1 as ocp  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # before it becomes top level
    from orbax.checkpoint.experimental import v1 as ocp

from backbone.errors import InputError
from backbone.trees import Params, flatten, map_leaves, require_same_structure, unflatten

__all__ = ["load_tree", "ocp", "save_tree"]


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes a tree of arrays to a new folder."""
    ocp.save(path.absolute(), flatten(tree))


def load_tree(path: Path, abstract: Mapping[str, Any], what: str) -> Params:
    """Reads a tree as numpy arrays; raises InputError unless shapes and dtypes equal `abstract`'s."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sharding info not provided")
            stored = ocp.metadata(path.absolute()).metadata
            require_same_structure(unflatten(stored), abstract, what)
            wanted = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in flatten(abstract).items()}
            found = ocp.load(path.absolute(), wanted)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  Orbax and tensorstore raise a dozen kinds for a damaged folder
        problem = f"{type(error).__name__}: {error}"
    else:
        return map_leaves(np.asarray, unflatten(found))
    _forget_failed_reads()
    raise InputError(f"{what}: not readable as an Orbax checkpoint: {problem}")


def _forget_failed_reads() -> None:
    """Collects the reads that failed beside the one whose error we report.

    Orbax leaves them as asyncio tasks that nobody asks. Collected later, each would print a traceback at a time of
    its own, and inside an `ast.parse` of CPython before 3.13 that raises SystemError (gh-106905).
    """
    logger = logging.getLogger("asyncio")
    before, logger.disabled = logger.disabled, True
    try:
        gc.collect()
    finally:
        logger.disabled = before


def host(tree: Mapping[str, Any]) -> Params:
    """A copy of the tree in host memory, fetched in one transfer."""
    return map_leaves(np.asarray, jax.device_get(dict(tree)))
