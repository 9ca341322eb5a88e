"""Low-rank updates of a network's kernels: what a trunk adds to another one, in few bytes.

    W' = W + A B at some columns of a kernel                (Hu et al. 2021, arXiv 2106.09685, equation 3)

The sum is taken in float64 and rounded once, so that the order of additions, which differs between machines, hardly
ever shows in a bit. Shapes: W [I,O], A [I,r], B [r,o]; o columns of O, since query, key and value lie in one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import canonical_json
from backbone.trees import Params, content_hash, flatten, map_leaves, unflatten

UPDATES_FILE = "updates.safetensors"


@dataclass(frozen=True)
class Update:
    """A product A B that is added to columns of a kernel."""

    layer: str  # dotted path of the dense layer in the weights, without `kernel`
    first: int  # first column of the kernel that it changes
    left: np.ndarray  # A float32 [I,r]
    right: np.ndarray  # B float32 [r,o]


def updates_id(base_id: str, updates: Sequence[Update]) -> str:
    """Returns `sha256:<hex>` of the trunk `base_id` with these updates.

    It names what the weights are made from, not their bits, which may differ between machines.
    """
    return content_hash(_tensors(updates), canonical_json({"base": base_id}))


def save_updates(folder: Path, updates: Sequence[Update]) -> None:
    """Writes the updates into the folder of a backbone."""
    write_durable(folder / UPDATES_FILE, save(flatten(_tensors(updates))))


def load_updates(folder: Path) -> tuple[Update, ...]:
    """Reads the updates in the folder of a backbone. Raises InputError if they are missing or damaged."""
    path = folder / UPDATES_FILE
    try:
        tensors = unflatten(load_file(path))["updates"]
        return tuple(
            Update(site.rpartition(":")[0].replace("/", "."), int(site.rpartition(":")[2]), pair["left"], pair["right"])
            for site, pair in tensors.items()
        )
    except FileNotFoundError:
        raise InputError(f"{path}: missing; make the trunk again with `topgraft parent`") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: holds no updates of kernels: {error}; make it again (`topgraft parent`)") from error


def updated(params: Params, updates: Sequence[Update]) -> Params:
    """Returns float32 weights on the host with the updates added. Raises InputError where one does not fit."""
    result = map_leaves(np.asarray, params)
    for update in updates:
        node: Any = result
        for key in update.layer.split("."):
            node = node.get(key, {}) if isinstance(node, dict) else {}
        kernel, columns = node.get("kernel"), slice(update.first, update.first + update.right.shape[1])
        if kernel is None or kernel[:, columns].shape != (update.left.shape[0], update.right.shape[1]):
            raise InputError(f"{update.layer}: no kernel of this trunk fits an update of its columns {columns}")
        changed = np.array(kernel)
        product = update.left.astype(np.float64) @ update.right.astype(np.float64)
        changed[:, columns] = (kernel[:, columns] + product).astype(np.float32)
        node["kernel"] = changed
    return result


def _tensors(updates: Sequence[Update]) -> Params:
    """Returns the factors as a tree; the name of a place is its layer, and the first column."""
    return {
        "updates": {
            f"{update.layer.replace('.', '/')}:{update.first}": {"left": update.left, "right": update.right}
            for update in updates
        }
    }
