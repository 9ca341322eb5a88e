"""Seconds of the real compiled programs, timed for a few calls on made-up rows of the right shape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from adapters.model import GraftModel
from adapters.programs import full_batch, states_at
from backbone.storage import Backbone
from backbone.trees import map_leaves
from metering.window import cpu_seconds
from trainers.batches import Batch
from trainers.loop import Task, live_above
from trainers.step import first_state, make_step, partition

TRIALS = 3  # timed calls, after one that compiles


@dataclass(frozen=True)
class Timing:
    """Of one call, or of many."""

    compile_seconds: float  # of the first call beyond the others
    seconds: float  # wall
    cpu_seconds: float


def time_step(task: Task, boundary: int, bucket: int, cached: bool) -> Timing:
    """A training step on a full batch of a bucket, from states at the boundary where they are cached."""
    config = task.config
    optimizer = task.optimizer()
    step = make_step(task.model, optimizer, dtype=config.compute_dtype, remat=config.remat, seed=config.seed)
    params = map_leaves(np.asarray, task.model.init(jax.random.key(config.seed)))
    live, frozen = partition(params, live_above(boundary))
    state = jax.device_put(first_state(live, optimizer))
    everything = jax.device_put({"backbone": task.backbone.params, "graft": frozen})
    batch = jax.device_put(_made_up(task, boundary, bucket, cached))

    def run() -> None:
        nonlocal state
        state = step(state, everything, batch)
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]

    return _timed(run)


def _made_up(task: Task, boundary: int, bucket: int, cached: bool) -> Batch:
    """A batch of the right shapes; what is in it does not change its time."""
    size, spec = task.config.batch_size, task.backbone.spec
    rows = np.flatnonzero(task.train.buckets == bucket)[:1]
    batch = task.train.gather(bucket, rows, size)
    batch = {**batch, "mask": np.ones_like(batch["mask"]), "weights": np.ones(size, np.float32)}
    ids = batch.pop("ids")
    if cached:
        return {**batch, "states": {boundary: np.full((*batch["mask"].shape, spec.width), 0.1, np.float32)}}
    return {**batch, "ids": np.ones_like(ids)}


def time_pass(model: GraftModel, backbone: Backbone, boundary: int, buckets: Counter[int]) -> Timing:
    """Seconds of the forward pass of all rows to a boundary, from full batches of each bucket."""
    timings = {bucket: _time_fill(model, backbone, boundary, bucket) for bucket in buckets}
    batches = {bucket: -(-rows // full_batch(bucket)) for bucket, rows in buckets.items()}
    return Timing(
        sum(timing.compile_seconds for timing in timings.values()),
        sum(n * timings[bucket].seconds for bucket, n in batches.items()),
        sum(n * timings[bucket].cpu_seconds for bucket, n in batches.items()),
    )


def _time_fill(model: GraftModel, backbone: Backbone, boundary: int, bucket: int) -> Timing:
    """A full batch of the forward pass that fills the cache."""
    adapter, size = model.init(jax.random.key(0))["adapter"], full_batch(bucket) * model.sides
    inputs = {"ids": backbone.made_up_ids(size, bucket), "mask": np.ones((size, bucket), bool)}

    def run() -> None:
        states = states_at(model, backbone.params, adapter, inputs, (boundary,), backbone.dtype.name)
        jax.block_until_ready(states)  # type: ignore[no-untyped-call]

    return _timed(run)


def _timed(run: Callable[[], None]) -> Timing:
    """The first call's extra time, and the median wall and CPU seconds of the next ones."""
    begun = time.perf_counter()
    run()
    first = time.perf_counter() - begun
    walls, cpus = [], []
    for _ in range(TRIALS):
        wall, cpu = time.perf_counter(), cpu_seconds()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(cpu_seconds() - cpu)
    wall = float(np.median(walls))
    return Timing(max(0.0, first - wall), wall, float(np.mean(cpus)))
