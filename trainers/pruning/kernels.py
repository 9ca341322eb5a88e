"""A block of the network with fewer heads and mlp units: arrays cut, and factors folded into what follows them.

Shape letters: `D` width, `H` heads of width `d`, `U` mlp units.
"""

from __future__ import annotations

import numpy as np

from backbone.spec import EncoderSpec
from backbone.trees import Params, map_leaves


def sliced(block: Params, heads: np.ndarray, units: np.ndarray, spec: EncoderSpec) -> Params:
    """Returns a block's parameters on the host with the heads bool [H] and units bool [U] that stay."""
    block, depth = map_leaves(np.asarray, block), spec.width // spec.heads
    inner = np.flatnonzero(np.repeat(heads, depth))  # columns of a query that stay
    columns = np.concatenate([part * spec.width + inner for part in range(3)])
    rows = np.flatnonzero(units)
    up = np.concatenate([rows, spec.mlp_width + rows]) if spec.mlp == "gated" else rows
    attention, mlp = block["attention"], block["mlp"]
    cut = {
        **attention,
        "qkv": {"kernel": attention["qkv"]["kernel"][:, columns], "bias": attention["qkv"]["bias"][columns]},
        "output": {**attention["output"], "kernel": attention["output"]["kernel"][inner]},
    }
    narrow = {
        **mlp,
        "up": {"kernel": mlp["up"]["kernel"][:, up], "bias": mlp["up"]["bias"][up]},
        "down": {**mlp["down"], "kernel": mlp["down"]["kernel"][rows]},
    }
    return {"attention": map_leaves(np.ascontiguousarray, cut), "mlp": map_leaves(np.ascontiguousarray, narrow)}


def scaled(block: Params, part: str, name: str, factors: np.ndarray) -> Params:
    """Returns a block with the rows of one kernel (`attention`, `output`; `mlp`, `down`) times a factor each.

    Factors of heads [H] stand for `d` rows each.
    """
    layer = block[part][name]
    rows = np.repeat(factors, layer["kernel"].shape[0] // len(factors)).astype(np.float32)
    return {**block, part: {**block[part], name: {**layer, "kernel": layer["kernel"] * rows[:, None]}}}
