"""A teacher, the smaller trunk made of its blocks, and its states, computed once for every row.

A student of l blocks takes every (L/l)-th block of its teacher of L, from the lowest (Sanh et al. 2019, arXiv
1910.01108, section 3). Its boundary k then stands for the teacher's boundary k L/l.

Shapes: N rows, K boundaries, T tokens, P values of a patch, D width of the teacher.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.records import digest
from backbone.storage import Backbone, load_backbone
from backbone.trees import Params
from trainers.pretraining.start import folder_of_start

log = logging.getLogger(__name__)

ROWS = 64  # rows of a batch of the teacher


def named_backbone(name: str, reads: str, field: str, objective: str) -> Backbone:
    """Loads a backbone folder, that of a run, or minilm, in float32. Raises InputError if it reads something else."""
    backbone = load_backbone(folder_of_start(name), precision="float32")
    if backbone.spec.reads != reads:
        raise InputError(
            f"{field}: {name} reads {backbone.spec.reads}, and {objective} needs a backbone that reads {reads}"
        )
    return backbone


def student_of(teacher: Backbone, blocks: int) -> tuple[Network, Params]:
    """Returns a network of every (L/blocks)-th block of the teacher, and its weights, float32.

    Blocks that shared one set of weights go on sharing it; those of several groups each get a set of their own. Raises
    InputError if `blocks` does not divide L.
    """
    spec = teacher.spec
    if blocks >= spec.blocks or spec.blocks % blocks:
        raise InputError(
            f"objective.blocks: {blocks} must be smaller than the teacher's {spec.blocks} blocks, and divide them"
        )
    step = spec.blocks // blocks
    student = dataclasses.replace(
        spec, blocks=blocks, windows=spec.windows[::step], groups=1 if spec.groups == 1 else 0
    )
    weights = {student.weights_key(k): teacher.network.block_weights(teacher.params, k * step) for k in range(blocks)}
    return Network(student), {**teacher.params, "blocks": weights}


def mapped(boundaries: Sequence[int], blocks: int, teacher: int) -> tuple[int, ...]:
    """Returns the boundaries of a teacher of `teacher` blocks for those of a student of `blocks` blocks.

    Raises InputError for a boundary that the student does not have, or that falls between those of the teacher.
    """
    for boundary in boundaries:
        if not 0 <= boundary <= blocks:
            raise InputError(f"objective.boundaries: {boundary} is none of the student's, 0 to {blocks}")
        if boundary * teacher % blocks:
            raise InputError(
                f"objective.boundaries: boundary {boundary} of {blocks} blocks falls between two of the teacher's "
                f"{teacher}; leave it out, or let the blocks divide"
            )
    return tuple(boundary * teacher // blocks for boundary in boundaries)


def states_of(
    teacher: Backbone, ids: np.ndarray, lengths: np.ndarray, boundaries: Sequence[int], folder: Path
) -> np.ndarray:
    """Returns the teacher's states float16 [N,K,T,D] for rows [N,T] or [N,T,P]; finished at its last boundary.

    They lie in a file of `folder`, by teacher, boundaries and rows; one that is there is read. Places behind a row's
    length hold no meaning.
    """
    width, last = teacher.spec.width, teacher.spec.blocks
    identity = digest({"teacher": teacher.weights_id, "at": list(boundaries), "rows": rows_id(ids, lengths)})
    file = folder / f"teacher-{identity.removeprefix('sha256:')[:16]}.npy"
    if file.exists():
        return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]

    @jax.jit
    def run(params: Params, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        mask = jnp.arange(ids.shape[1]) < lengths[:, None]
        hidden = teacher.network.embed(params, {"ids": ids})
        _, states = teacher.network.run_blocks(params, hidden, mask, taps=boundaries, stop=max(boundaries))
        ends = [teacher.network.finish(params, states[k]) if k == last else states[k] for k in boundaries]
        return jnp.stack(ends, axis=1).astype(jnp.float16)

    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    shape = len(ids), len(boundaries), ids.shape[1], width
    log.info("teacher: %d rows at boundaries %s, %.0f MB", len(ids), list(boundaries), np.prod(shape) * 2 / 1e6)
    states = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
    for first in range(0, len(ids), ROWS):
        part = slice(first, first + ROWS)
        missing = ROWS - len(ids[part])
        filled = [np.concatenate([a[part], np.repeat(a[:1], missing, axis=0)]) for a in (ids, lengths)]
        states[part] = np.asarray(run(teacher.params, *filled))[: len(ids[part])]
    states.flush()
    partial.replace(file)
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def rows_id(ids: np.ndarray, lengths: np.ndarray) -> str:
    """Returns `sha256:<hex>` of rows and their lengths."""
    state = hashlib.sha256(f"{ids.shape} {ids.dtype}".encode())
    for array in (ids, lengths):
        state.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{state.hexdigest()}"
