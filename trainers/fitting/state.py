"""The state of a loop between two batches: live and frozen trees, the optimiser, progress, and the cache in use.

A stage's end moves what freezes from the live tree to the frozen one. Moments of what stays live are carried over, and
so is the step, so that the learning rate goes on. States at the new boundary are cached where the plan says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from backbone.records import encode
from backbone.trees import Params, flatten, map_leaves
from metering.cost import add_costs
from metering.counts import Count
from metering.window import Cost
from trainers.data.batches import States
from trainers.fitting.cached_states import CachedPrefix
from trainers.fitting.progress import Progress, progress_of
from trainers.fitting.step import carry, first_state, join, no_sums, partition
from trainers.freezing.schedule import Span
from trainers.runs.checkpoints import State
from trainers.runs.logs import Scalars
from trainers.runs.result import StageRecord

if TYPE_CHECKING:
    from trainers.fitting.loop import Trainable

log = logging.getLogger(__name__)


class Saved(Protocol):
    """What a loop goes on from: checkpoints of a run, or the stored state of a trial."""

    def notes(self) -> Params | None:
        """Returns the progress as JSON values; None if there is nothing to go on from."""

    def restore(self, state: State, best: Mapping[str, Any], frozen: Mapping[str, Any]) -> tuple[State, Params, Params]:
        """Returns (state, best, frozen); the arguments give the expected structure."""


Step = Callable[[State, Params, Any], State]  # (arrays, what is fixed, batch) -> arrays


class LoopState:
    """The one mutable object of a run that is being trained."""

    def __init__(self, task: Trainable, params: Params):
        self.task = task
        self.optimizer = task.optimizer()
        self.step = task.make_step(self.optimizer)
        self.progress = Progress(boundary=task.spans[0].boundary or 0)
        self.best: Params = map_leaves(np.array, params) if task.metric else {}
        self.prefix: CachedPrefix | None = None  # cached states below the live blocks
        self.done = 0  # micro-batches run, in all processes of the run
        self._entered: Span | None = None
        self._counts: dict[tuple[Any, ...], Count] = {}
        self._split(params)

    def _split(self, params: Params) -> None:
        """Sets the live and the frozen tree of the current boundary, with fresh moments."""
        boundary = self.progress.boundary
        live, self.frozen = partition(params, lambda path: self.task.is_live(path, boundary))
        layout, track = self.task.layout, self.task.schedule.signal == "gradient"
        # moments are made from parameters in their places, so that no device ever has all of them
        state = first_state(layout.params(live), self.optimizer, track, self.task.keeps_start)
        self.arrays: State = layout.params(state)
        self.fixed = self.task.fixed(self.frozen)

    @property
    def params(self) -> Params:
        """Returns the whole tree on the host."""
        return map_leaves(np.asarray, join(self.task.layout.fetched(self.arrays["live"]), self.frozen))

    @property
    def states(self) -> States | None:
        """Returns the function that gives a batch its cached states; None where blocks run from the inputs."""
        return None if self.prefix is None else self.prefix.states

    def restore(self, checkpoints: Saved) -> bool:
        """Goes on from the newest checkpoint; returns whether there is one."""
        if (notes := checkpoints.notes()) is None:
            return False
        self.progress = progress_of(notes)
        self._split(self.params)
        arrays, self.best, self.frozen = checkpoints.restore(self.arrays, self.best, self.frozen)
        self.arrays = self.task.layout.params(arrays)
        self.fixed = self.task.fixed(self.frozen)
        self.done = int(self.arrays["step"])
        return True

    def notes(self) -> dict[str, Any]:
        """Returns the progress as JSON values, for a checkpoint."""
        return dict(encode(self.progress))

    def enter(self, span: Span, show: bool) -> None:
        """Enters a stage, unless it is the current one."""
        if span == self._entered:
            return
        self._entered, boundary = span, span.boundary
        if boundary is None:  # a stage that is resumed has been decided on
            boundary = self.progress.boundary if self.progress.stage_until == span.until else self._decided()
        self.progress.stage_until = span.until
        if boundary != self.progress.boundary:
            before, params = self.arrays, self.params
            self.progress.boundary = boundary
            self._split(params)
            self.arrays = carry(before, self.arrays)
        live = range(boundary, self.task.blocks)
        log.info("stage: blocks %s live", f"{live[0]}..{live[-1]}" if live else "none")
        self._counts = {}
        self.prefix = self.task.fill(self, boundary, show) if boundary else None

    def _decided(self) -> int:
        """Returns the boundary that the schedule chooses by the last two stages; starts a new interval."""
        sums = flatten(self.task.layout.fetched(self.arrays["gradient"])["adapter"])
        adapted = {int(block) for block in (path.split(".")[1] for path in sums) if block.isdigit()}
        first = max(self.progress.boundary, min(adapted, default=self.task.blocks))
        norms = []
        for block in range(first, self.task.blocks):  # blocks below the lowest adapter have no gradient to judge by
            leaves = [leaf for path, leaf in sums.items() if path.split(".")[1] == str(block)]
            norms.append(float(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))))
        before = self.progress.norms[-len(norms) :]
        self.progress.norms = tuple(norms)
        self.arrays["gradient"] = jax.tree.map(jnp.zeros_like, self.arrays["gradient"])
        if not norms or len(before) != len(norms):
            return self.progress.boundary
        return self.task.schedule.decide(before, norms, first)

    def work(self, batch: Any) -> Count:
        """Returns the counted work of one step on a batch of this shape."""
        shape = tuple(np.shape(batch["mask"] if "mask" in batch else batch["ids"]))
        if shape not in self._counts:
            self._counts[shape] = self.task.count(batch, self.progress.boundary, self.prefix is not None)
        return self._counts[shape]

    def log(self, scalars: Scalars, shown: Any) -> None:
        """Fetches and clears the sums; the only place where a loop waits for the device between two pauses."""
        sums = {name: float(value) for name, value in jax.device_get(self.arrays["sums"]).items()}
        loss = sums["loss"] / sums["rows"] if sums["rows"] else math.nan
        if sums["skipped"]:
            self.progress.skipped += int(sums["skipped"])
            log.warning(
                "%d batches up to step %d were skipped: loss or gradient not finite", sums["skipped"], self.done
            )
        shown.set_postfix(loss=f"{loss:.4f}", refresh=False)
        finite = {} if math.isnan(loss) else {"train/loss": loss}
        scalars.write(self.done, {**finite, "train/skipped": sums["skipped"]})
        with jax.transfer_guard("allow"):
            self.arrays = {**self.arrays, "sums": self.task.layout.whole(no_sums())}

    def evaluate(self, scalars: Scalars) -> None:
        """Scores the held-out rows; keeps the best parameters so far."""
        scores, task = self.task.evaluate(self), self.task
        if scores is None:
            return
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        scalars.write(self.done, {f"{task.held_out}/{name}": value for name, value in finite.items()})
        words = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        log.info("step %d: %s %s", self.done, task.held_out.replace("_", "-"), words)
        if self.progress.note(self.done, scores, task.metric if self.done >= task.kept_from else ""):
            self.best = map_leaves(np.array, self.params)
        self.progress.stopped = 0 < task.patience <= self.progress.epochs_without_gain

    def record(self, span: Span, steps: int, cost: Cost, work: Count) -> None:
        """Adds these steps and their cost to the stage's record.

        Its work is that of the steps, as the price counts. The record may already hold steps from before an
        interruption.
        """
        record, stages = replace(cost.record(), flops=work.flops, bytes_moved=work.bytes), self.progress.stages
        if stages and stages[-1].until == span.until:
            record, steps = add_costs(stages[-1].cost, record), steps + stages[-1].steps
            stages = stages[:-1]
        cached = self.prefix is not None
        stage = StageRecord(
            **vars(record), until=span.until, boundary=self.progress.boundary, cached=cached, steps=steps
        )
        self.progress.stages = (*stages, stage)
