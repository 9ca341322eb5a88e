"""A trunk with fewer blocks: those are dropped that change the states of a text least.

The influence of a block is 1 - cos(h_k, h_k+1), the mean over the tokens of its input and its output (block influence,
Men et al. 2024, ShortGPT, arXiv 2403.03853, equation 1). Nothing is trained. The result is a trunk of its own, with an
id of its own, on which grafts are trained anew.

Shapes: B batch, T tokens, L blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapters.forward import grouped, states_at
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from backbone import texts
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec
from backbone.storage import Backbone, load_backbone, save_backbone
from backbone.trees import Params, flatten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DroppedBlocks:
    """The result of `drop-blocks`; `--json` prints it."""

    path: str  # folder of the new trunk
    weights_id: str  # identity of the new trunk
    dropped: tuple[int, ...]  # blocks of the former trunk that are gone, ascending
    influence: tuple[float, ...]  # influence of each block of the former trunk
    blocks: int  # blocks that are left
    parameters: int  # scalars of the new trunk
    tokens: int  # tokens of the texts that decided


def drop_blocks(backbone: str, out: str | Path, *, count: int, files: Sequence[str]) -> DroppedBlocks:
    """Writes a backbone, a folder or minilm, without its `count` least influential blocks, as the new folder `out`.

    Each line of `files` is a text. Raises InputError for a backbone of images, for blocks that share weights, and where
    fewer than one block would be left.
    """
    ready_to_compute()
    trunk = load_backbone(resolve_backbone(backbone), precision="float32")
    spec, preprocessing = trunk.spec, trunk.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        raise InputError(f"{backbone}: it reads images; drop-blocks judges blocks by texts")
    if spec.shares_weights:
        raise InputError(f"{backbone}: its blocks share weights, so that dropping one of them saves no bytes")
    droppable = range(0 if spec.first_norm else 1, spec.blocks)  # block 0 alone may lack a norm, so it stays first
    if not 0 < count < spec.blocks or count > len(droppable):
        raise InputError(f"--blocks: must lie between 1 and {min(spec.blocks - 1, len(droppable))}, got {count}")
    influence, tokens = influences(trunk, preprocessing, _lines(files))
    order = sorted(droppable, key=lambda block: influence[block])
    dropped = tuple(sorted(order[:count]))
    log.info("influence of each block: %s", ", ".join(f"{value:.3f}" for value in influence))
    small, params = without(spec, trunk.params, dropped)
    source = {**trunk.source, "source": "drop-blocks", "teacher": trunk.weights_id}
    record = save_backbone(Path(out), small, params, preprocessing, source)
    size = sum(leaf.size for leaf in flatten(params).values())
    return DroppedBlocks(str(out), record.weights_id, dropped, tuple(influence), small.blocks, size, tokens)


def _lines(files: Sequence[str]) -> list[str]:
    """Returns the texts of files, one a line; raises InputError if there is none."""
    lines: list[str] = []
    for name in files:
        if not Path(name).is_file():
            raise InputError(f"--text: {name}: no such file")
        read = texts.read_text(Path(name), remedy="convert the file to UTF-8")
        lines += [line for line in read.splitlines() if line.strip()]
    if not lines:
        raise InputError("--text: no line to judge blocks by; name a file with texts like yours, one a line")
    return lines


def influences(trunk: Backbone, preprocessing: TextPreprocessing, lines: Sequence[str]) -> tuple[list[float], int]:
    """Returns the influence of each block over the texts, and the number of their tokens."""
    rows, blocks = preprocessing.encode(lines), trunk.spec.blocks
    bare = GraftModel(trunk.network, (Probe(),), Classification(), ("",))
    sums, tokens = np.zeros(blocks), 0
    for bucket, size, indices in grouped([len(row) for row in rows], trunk.lengths):
        filler = [rows[indices[-1]]] * (size - len(indices))
        ids, mask = pad([*(rows[i] for i in indices), *filler], bucket, preprocessing.fill)
        states = states_at(bare, trunk.params, {}, {"ids": ids, "mask": mask}, range(blocks + 1))
        visible = mask[: len(indices)]
        tokens += int(visible.sum())
        host = [np.asarray(states[boundary])[: len(indices)][visible] for boundary in range(blocks + 1)]
        for block in range(blocks):
            before, after = host[block], host[block + 1]
            lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
            sums[block] += (1 - (before * after).sum(axis=-1) / np.maximum(lengths, 1e-12)).sum(dtype=np.float64)
    return (sums / tokens).tolist(), tokens


def without(spec: EncoderSpec, params: Params, dropped: Sequence[int]) -> tuple[EncoderSpec, Params]:
    """Returns architecture and weights without some blocks; those that stay move up."""
    kept = [block for block in range(spec.blocks) if block not in dropped]
    windows = tuple(spec.windows[block] for block in kept) if spec.windows else ()
    blocks = {str(place): params["blocks"][spec.weights_key(block)] for place, block in enumerate(kept)}
    groups = len(kept) if spec.groups else 0
    return replace(spec, blocks=len(kept), windows=windows, groups=groups), {**params, "blocks": blocks}
