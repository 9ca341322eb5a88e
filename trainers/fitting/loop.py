"""The training loop, of grafts and of backbones alike: batch, step, log, evaluate, checkpoint.

The order matters. A pause (the end of an epoch, so many steps) evaluates before it saves, so that a resumed run never
repeats an evaluation. A checkpoint holds the state after so many steps, and the next batch
is found from that number alone. A stage begins when the first batch after the last one's end is due.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import optax

from backbone.errors import Stopped
from backbone.meshes.layout import Layout
from backbone.trees import Params
from metering.counts import Count
from metering.window import window
from trainers.data.batches import States
from trainers.fitting.cached_states import CachedPrefix
from trainers.fitting.progress import Progress
from trainers.fitting.state import LoopState, Step
from trainers.freezing.schedule import Schedule, Span
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.interruption import Interruption
from trainers.runs.logs import Scalars, bar


def fit(
    task: Trainable,
    state: LoopState,
    checkpoints: Checkpoints,
    scalars: Scalars,
    *,
    stop_if: Callable[[Progress], bool] = lambda progress: False,
    show: bool = False,
) -> None:
    """Runs `state` through the stages of `task`, to the end, to early stopping, or until its time is over.

    `stop_if` is asked after each evaluation. Raises Stopped where a signal ends the process, after the state is saved.
    """
    shown = bar(task.total_steps, task.title, "batch", show=show, initial=state.done)
    with Interruption(task.checkpoint_seconds, task.max_seconds, task.log_every) as interruption, shown:
        while state.done < task.total_steps and not state.progress.stopped and not interruption.over:
            span, pause, first, work = task.span_at(state.done), task.pause_after(state.done), state.done, Count()
            with window("stage") as cost:
                state.enter(span, show)  # freezes, thaws, carries moments over, fills the cache
                with jax.transfer_guard("disallow"):
                    for batch in task.batches(state.done, min(span.until, pause), state.states):
                        work += state.work(batch)
                        state.arrays = state.step(state.arrays, state.fixed, batch)
                        state.done += 1
                        shown.update()
                        if state.done == pause or state.done % task.log_every == 0:
                            state.log(scalars, shown)
                        if interruption.look(state.done):
                            break
                jax.block_until_ready(state.arrays)  # type: ignore[no-untyped-call]
                if paused := state.done == pause:
                    state.evaluate(scalars)
                cost.add(flops=work.flops, bytes_moved=work.bytes)
            state.record(span, state.done - first, cost, work)
            if paused:
                state.progress.stopped |= stop_if(state.progress)
            if paused or interruption.over or interruption.due:
                checkpoints.save(state.done, state.arrays, state.best, state.frozen, state.notes())
                interruption.saved()
    checkpoints.wait()
    scalars.close()
    if interruption.signalled and state.done < task.total_steps:
        raise Stopped(f"stopped by a signal after {state.done} of {task.total_steps} steps; --resume goes on")


class Trainable(ABC):
    """A task of the loop; fixed before it starts."""

    title: ClassVar[str]  # title of the progress bar
    held_out: ClassVar[str]  # split that evaluations score, as scalars name it

    @property
    def max_seconds(self) -> float:
        """Returns the time of one process in seconds; 0 = no limit."""
        return 0.0

    @property
    def metric(self) -> str:
        """Returns the score that chooses the best parameters; "" if none are kept."""
        return ""

    @property
    def patience(self) -> int:
        """Returns the evaluations without a better score after which the run stops; 0 = never."""
        return 0

    @property
    def kept_from(self) -> int:
        """Returns the micro-batches before which no evaluation chooses the best parameters."""
        return 0

    @property
    def keeps_start(self) -> bool:
        """Returns whether the step reads the adapter as it was at the start."""
        return False

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Returns the devices of the run, and what lies where on them."""

    @property
    @abstractmethod
    def log_every(self) -> int:
        """Returns the micro-batches between logged scalars."""

    @property
    @abstractmethod
    def checkpoint_seconds(self) -> float:
        """Returns the seconds between checkpoints; 0 = only where the loop pauses."""

    @property
    @abstractmethod
    def blocks(self) -> int:
        """Returns the number of blocks L."""

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Returns the micro-batches of the whole run."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Returns the freezing schedule."""

    @property
    @abstractmethod
    def spans(self) -> tuple[Span, ...]:
        """Returns the stages of the run."""

    def span_at(self, done: int) -> Span:
        """Returns the stage that runs the batch after `done` batches."""
        return next((span for span in self.spans if done < span.until), self.spans[-1])

    @abstractmethod
    def pause_after(self, done: int) -> int:
        """Returns the next number of micro-batches after which the run is evaluated and saved."""

    @abstractmethod
    def batches(self, done: int, until: int, states: States | None) -> Iterator[Any]:
        """Yields batches number `done` to `until`, on the device; with `states` from the boundary cache."""

    @abstractmethod
    def is_live(self, path: str, boundary: int) -> bool:
        """Returns whether the leaf at a dotted path is trained while blocks from `boundary` on are live."""

    @abstractmethod
    def fixed(self, frozen: Params) -> Params:
        """Returns the parameters that the step reads and does not train, on the device."""

    @abstractmethod
    def optimizer(self) -> optax.GradientTransformation:
        """Returns the optimiser of the whole run."""

    @abstractmethod
    def make_step(self, optimizer: optax.GradientTransformation) -> Step:
        """Returns the compiled step (arrays, fixed, batch) -> arrays."""

    @abstractmethod
    def count(self, batch: Any, boundary: int, cached: bool) -> Count:
        """Returns the counted work of a step on `batch`."""

    @abstractmethod
    def evaluate(self, state: LoopState) -> Mapping[str, float] | None:
        """Returns the scores on the held-out rows; None without any."""

    def fill(self, state: LoopState, boundary: int, show: bool) -> CachedPrefix | None:
        """Returns the cached states at a boundary, computed where they are missing; None without a cache."""
        return None
