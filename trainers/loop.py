"""The training loop: evaluate, checkpoint, batch, step, log.

The order matters. An epoch's end is evaluated before the checkpoint that follows it, so a resumed
run never repeats an evaluation; a checkpoint holds the state after `step` steps, and the next batch
is found from that number alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.storage import Backbone
from backbone.trees import Params, map_leaves
from trainers.batches import Batch, Examples, Order, batches
from trainers.checkpoints import Checkpoints
from trainers.config import TrainConfig
from trainers.logs import Scalars, bar
from trainers.metrics import gather
from trainers.step import State, first_state, join, make_optimizer, make_step, no_sums

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What the loop decides by; saved with each checkpoint."""

    best_score: float = -math.inf
    best_step: int = 0
    epochs_without_gain: int = 0
    stopped: bool = False
    skipped: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """What the loop returns."""

    params: Params  # {"adapter", "head"} on the host
    steps: int  # micro-batches run, in all processes of the run
    progress: Progress


@dataclass(frozen=True)
class Task:
    """Everything a loop is about, fixed before it starts."""

    config: TrainConfig
    model: GraftModel
    backbone: Backbone
    train: Examples
    dev: Examples | None

    @property
    def order(self) -> Order:
        return Order(self.train.buckets, self.config.batch_size, self.config.seed)

    @property
    def total_steps(self) -> int:
        """Micro-batches of the whole run."""
        return max(1, math.ceil(self.config.epochs * self.order.batches_per_epoch - 1e-9))

    def optimizer(self) -> optax.GradientTransformation:
        steps = -(-self.total_steps // self.config.optimizer.accumulate)
        return make_optimizer(self.config.optimizer, steps)


def score(task: Task, params: Params, examples: Examples) -> dict[str, float]:
    """Metrics of `params` on a split."""
    graft = Graft(task.model, params, task.backbone, task.config.data.max_tokens)
    logits = graft.logits_of_rows(examples.rows)
    return gather(task.model, logits, examples.labels).compute()


def fit(
    task: Task,
    live: Params,
    frozen: Params,
    checkpoints: Checkpoints,
    make_scalars: Callable[[int], Scalars],
    *,
    show: bool,
) -> Fitted:
    """Trains `live` (with `frozen`, the rest of the graft's tree) to the end or to early stopping."""
    config, optimizer = task.config, task.optimizer()
    step = make_step(task.model, optimizer, dtype=config.compute_dtype, remat=config.remat, seed=config.seed)
    state = jax.device_put(first_state(live, optimizer))
    best: Params = map_leaves(np.array, live)
    progress = Progress()
    if restored := checkpoints.restore(state, best):
        state, best, notes = restored
        progress = Progress(**notes)
    done = int(state["step"])
    scalars = make_scalars(done)
    everything = jax.device_put({"backbone": task.backbone.params, "graft": frozen})
    per_epoch, total = task.order.batches_per_epoch, task.total_steps
    saved_at = time.monotonic()

    with bar(total, "train", "batch", show=show, initial=done) as shown, jax.transfer_guard("disallow"):
        stream = _stream(task, done)
        while done < total and not progress.stopped:
            batch = next(stream)
            state = step(state, everything, batch)
            done += 1
            shown.update()
            if done % config.log_every == 0 or done == total:
                state = _log(scalars, done, state, progress, shown)
            epoch_ends = done % per_epoch == 0 or done == total
            if epoch_ends:
                best = _end_of_epoch(task, done, state, frozen, best, progress, scalars)
            due = config.checkpoint_seconds and time.monotonic() - saved_at >= config.checkpoint_seconds
            if epoch_ends or due:
                checkpoints.save(done, state, best, vars(progress))
                saved_at = time.monotonic()
    checkpoints.wait()
    scalars.close()
    chosen = best if config.select == "best" and task.dev is not None else jax.device_get(state["live"])
    return Fitted(map_leaves(np.asarray, join(chosen, jax.device_get(frozen))), done, progress)


def _stream(task: Task, done: int) -> Iterator[Batch]:
    """Batches from number `done` of the run on."""
    epoch, first = divmod(done, task.order.batches_per_epoch)
    while True:
        yield from batches(task.train, task.order, epoch, first, task.config.input_threads)
        epoch, first = epoch + 1, 0


def _log(scalars: Scalars, done: int, state: State, progress: Progress, shown: Any) -> State:
    """Fetches and clears the sums; the only place where the loop waits for the device."""
    sums = {name: float(value) for name, value in jax.device_get(state["sums"]).items()}
    loss = sums["loss"] / sums["rows"] if sums["rows"] else math.nan
    if sums["skipped"]:
        progress.skipped += int(sums["skipped"])
        log.warning("%d batches up to step %d were skipped: loss or gradient not finite", sums["skipped"], done)
    shown.set_postfix(loss=f"{loss:.4f}", refresh=False)
    finite = {} if math.isnan(loss) else {"train/loss": loss}
    scalars.write(done, {**finite, "train/skipped": sums["skipped"]})
    with jax.transfer_guard("allow"):
        return {**state, "sums": no_sums()}


def _end_of_epoch(
    task: Task, done: int, state: State, frozen: Params, best: Params, progress: Progress, scalars: Scalars
) -> Params:
    """Scores the development rows; returns the best live tree so far."""
    if task.dev is None:
        return best
    with jax.transfer_guard("allow"):
        metrics = score(task, join(state["live"], frozen), task.dev)
    scalars.write(done, {f"dev/{name}": value for name, value in metrics.items()})
    progress.history.append({"step": done, **metrics})
    log.info("step %d: dev %s", done, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if metrics[task.config.metric] > progress.best_score:
        progress.best_score, progress.best_step = metrics[task.config.metric], done
        progress.epochs_without_gain = 0
        return map_leaves(np.array, jax.device_get(state["live"]))
    progress.epochs_without_gain += 1
    progress.stopped = 0 < task.config.patience <= progress.epochs_without_gain
    return best
