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
from trainers.fitting.step import first_state, make_step, partition
from trainers.fitting.task import GraftTask, live_from

TRIALS = 3  # timed calls, after one that compiles and one that loads


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, or of many."""

    compile_seconds: float  # wall time of the first call beyond that of a first call in a later process
    load_seconds: float  # wall time of a later process's first call beyond the next ones: tracing and loading
    load_cpu_seconds: float  # CPU time of the same
    seconds: float  # wall time of a call
    cpu_seconds: float  # CPU time of a call

    def times(self, count: int) -> Timing:
        """Returns the seconds of `count` such calls; programs are loaded once."""
        return replace(self, seconds=count * self.seconds, cpu_seconds=count * self.cpu_seconds)


NOTHING = Timing(0.0, 0.0, 0.0, 0.0, 0.0)


def total(timings: Iterable[Timing]) -> Timing:
    """Returns the sum of each field."""
    fields = [astuple(timing) for timing in timings]
    return Timing(*map(sum, zip(*fields, strict=True))) if fields else NOTHING


def time_step(task: GraftTask, boundary: int, bucket: int, cached: bool) -> Timing:
    """Times a training step on a full batch of a bucket, from states at the boundary where they are cached."""
    config = task.config
    optimizer = task.optimizer()
    layout = task.layout
    form = task.form
    step = make_step(task.model, optimizer, remat=form.remat, seed=config.seed, layout=layout, parts=form.parts)
    params = map_leaves(np.asarray, task.model.init(jax.random.key(config.seed)))
    live, frozen = partition(params, live_from(boundary))
    state = layout.params(first_state(layout.params(live), optimizer))
    everything = layout.params({"backbone": task.backbone.params, "graft": frozen})
    batch = layout.batch(_made_up(task, boundary, bucket, cached))

    def run() -> None:
        nonlocal state
        state = step(state, everything, batch)
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]

    return _timed(run)


def _made_up(task: GraftTask, boundary: int, bucket: int, cached: bool) -> Batch:
    """Returns a batch of the right shapes; its values do not change its time."""
    size, spec = task.config.batch_size, task.backbone.spec
    rows = np.flatnonzero(task.train.buckets == bucket)[:1]
    real = task.train.gather(bucket, rows, size)
    mask, weights = np.ones_like(real["mask"]), np.ones(size, np.float32)
    batch = Batch(mask=mask, labels=real["labels"], weights=weights)
    if cached:
        return {**batch, "states": {boundary: np.full((*mask.shape, spec.width), 0.1, np.float32)}}
    return {**batch, "ids": np.ones_like(real["ids"])}


Loaded = set[tuple[int, int]]  # (bucket, first block of its kind) of each program that a run has loaded


def time_pass(
    model: GraftModel, backbone: Backbone, span: tuple[int, int], buckets: Counter[int], loaded: Loaded | None = None
) -> Timing:
    """Times the forward pass of all rows between the two boundaries of `span`, from full batches of each bucket.

    Programs in `loaded` cost no loading; the pass adds its own to it.
    """
    loaded, timings = set() if loaded is None else loaded, []
    for bucket, rows in buckets.items():
        timing, programs = _time_batch(model, backbone, span, bucket), {(bucket, alike(model, i)) for i in range(*span)}
        if programs <= loaded:
            timing = replace(timing, load_seconds=0.0, load_cpu_seconds=0.0)
        loaded |= programs
        timings.append(timing.times(-(-rows // (full_batch(bucket) * backbone.layout.shards))))
    return total(timings)


def _time_batch(model: GraftModel, backbone: Backbone, span: tuple[int, int], bucket: int) -> Timing:
    """Times a full batch of a forward pass, block by block; above the bottom it begins from made-up states."""
    adapter, size = model.init(jax.random.key(0))["adapter"], full_batch(bucket) * backbone.layout.shards * model.sides
    (start, stop), mask = span, np.ones((size, bucket), bool)
    inputs: dict[str, Any] = {"mask": mask}
    if start:
        inputs["states"] = {start: np.full((*mask.shape, backbone.spec.width), 0.1, np.float32)}
    else:
        inputs["ids"] = backbone.made_up_ids(size, bucket)
    inputs = backbone.layout.batch(inputs)

    def run() -> None:
        states = states_at(model, backbone.params, adapter, inputs, (stop,))
        jax.block_until_ready(states)  # type: ignore[no-untyped-call]

    return _timed(run)


def _timed(run: Callable[[], None]) -> Timing:
    """Times a first call in this process and in a later one, and takes the median of the next ones.

    To stand for a later process, this one forgets all its programs; calls after it load them again.
    """
    compiled, _ = _seconds(run)
    jax.clear_caches()  # type: ignore[no-untyped-call]
    loaded = _seconds(run)
    trials = np.array([_seconds(run) for _ in range(TRIALS)])
    wall, cpu = float(np.median(trials[:, 0])), float(np.mean(trials[:, 1]))
    return Timing(max(0.0, compiled - loaded[0]), max(0.0, loaded[0] - wall), max(0.0, loaded[1] - cpu), wall, cpu)


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Returns the wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    run()
    return time.perf_counter() - wall, cpu_seconds() - cpu
