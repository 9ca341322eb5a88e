"""Runs of the loop on a small task, what compiles in them, and how far apart two trees are."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from backbone.trees import flatten, map_leaves
from trainers.config import Plan
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.loop import fit
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.logs import Scalars


def trained(task: GraftTask, folder: Path, cache: str = "float32", **plan):
    """(parameters, progress) after a run with this plan."""
    config = replace(task.config, plan=Plan(cache=cache, **plan), select="last")

    def open_cache(adapter):
        return Boundaries(task.model, task.backbone, adapter, folder / "cache", cache, 2**30)

    task = replace(task, config=config, open_cache=None if cache == "none" else open_cache)
    params = map_leaves(np.asarray, task.model.init(jax.random.key(0)))
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        state = LoopState(task, params)
        state.restore(checkpoints)
        fit(task, state, checkpoints, Scalars(folder, state.done))
    return flatten(state.params), state.progress


def assert_same(left, right):
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


def apart(left: dict, right: dict) -> float:
    """Largest difference of two trees."""
    assert left.keys() == right.keys()
    return max(float(np.abs(left[path] - right[path]).max()) for path in left)


@contextlib.contextmanager
def compiles():
    """Names of the jitted functions that are compiled in the block."""
    import logging

    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            text = record.getMessage()
            if text.startswith("Compiling "):
                names.append(text.split()[1].removeprefix("jit(").rstrip(")"))

    logger, handler = logging.getLogger("jax._src.interpreters.pxla"), Handler()
    logger.addHandler(handler)
    try:
        yield names
    finally:
        logger.removeHandler(handler)


def examples(count=50, seed=0, lengths=(8, 16, 32)) -> Examples:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(5, 180, n).astype(np.int32) for n in draw.integers(3, 33, count)]
    return Examples(rows, draw.integers(0, 3, count).astype(np.int32), lengths)
