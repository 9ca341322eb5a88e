"""Seconds of the real compiled programs, timed for a few calls on made-up rows of the right shape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax
import numpy as np

from adapters.forward import alike, full_batch, states_at
from adapters.model import GraftModel
from backbone.storage import Backbone
from backbone.trees import map_leaves
from metering.window import cpu_seconds
from trainers.data.batches import Batch
from trainers.fitting.loop import Task, live_above
from trainers.fitting.step import first_state, make_step, partition

TRIALS = 3  # timed calls, after one that compiles and one that loads


@dataclass(frozen=True)
class Timing:
    """Of one call, or of many."""

    compile_seconds: float  # wall, of the first call beyond that in a later process
    load_seconds: float  # wall, of the first call in a later process beyond the others: traces, loads what is compiled
    load_cpu_seconds: float
    seconds: float  # wall
    cpu_seconds: float

    def times(self, count: int) -> Timing:
        """Of `count` such calls: programs are loaded once."""
        return replace(self, seconds=count * self.seconds, cpu_seconds=count * self.cpu_seconds)


NOTHING = Timing(0.0, 0.0, 0.0, 0.0, 0.0)


def total(timings: Iterable[Timing]) -> Timing:
    """The sum of each field."""
    found = [astuple(timing) for timing in timings]
    return Timing(*map(sum, zip(*found, strict=True))) if found else NOTHING


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


Loaded = set[tuple[int, int]]  # (bucket, first block of its kind) of the programs that a run has loaded by then


def time_pass(
    model: GraftModel, backbone: Backbone, span: tuple[int, int], buckets: Counter[int], loaded: Loaded | None = None
) -> Timing:
    """The forward pass of all rows between the two boundaries of `span`, from full batches of each bucket.

    Programs in `loaded` cost no loading; those that the pass loads are added to it.
    """
    loaded, timings = set() if loaded is None else loaded, []
    for bucket, rows in buckets.items():
        timing, programs = _time_batch(model, backbone, span, bucket), {(bucket, alike(model, i)) for i in range(*span)}
        if programs <= loaded:
            timing = replace(timing, load_seconds=0.0, load_cpu_seconds=0.0)
        loaded |= programs
        timings.append(timing.times(-(-rows // full_batch(bucket))))
    return total(timings)


def _time_batch(model: GraftModel, backbone: Backbone, span: tuple[int, int], bucket: int) -> Timing:
    """A full batch of a forward pass, block by block; from made-up states where it does not begin at the bottom."""
    adapter, size = model.init(jax.random.key(0))["adapter"], full_batch(bucket) * model.sides
    (start, stop), mask = span, np.ones((size, bucket), bool)
    inputs: dict[str, Any] = {"mask": mask}
    if start:
        inputs["states"] = {start: np.full((*mask.shape, backbone.spec.width), 0.1, np.float32)}
    else:
        inputs["ids"] = backbone.made_up_ids(size, bucket)

    def run() -> None:
        states = states_at(model, backbone.params, adapter, inputs, (stop,), backbone.dtype.name)
        jax.block_until_ready(states)  # type: ignore[no-untyped-call]

    return _timed(run)


def _timed(run: Callable[[], None]) -> Timing:
    """What the first call costs, in this process and in a later one, and the median seconds of the next ones.

    To stand for a later process, this one forgets all its programs: what it does afterwards loads them again.
    """
    compiled, _ = _seconds(run)
    jax.clear_caches()  # type: ignore[no-untyped-call]
    loaded = _seconds(run)
    trials = np.array([_seconds(run) for _ in range(TRIALS)])
    wall, cpu = float(np.median(trials[:, 0])), float(np.mean(trials[:, 1]))
    return Timing(max(0.0, compiled - loaded[0]), max(0.0, loaded[0] - wall), max(0.0, loaded[1] - cpu), wall, cpu)


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    run()
    return time.perf_counter() - wall, cpu_seconds() - cpu
