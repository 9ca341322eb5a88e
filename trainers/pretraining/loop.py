"""A backbone as the loop trains it, and the scores of its held-out rows.

The state after a number of micro-batches decides everything that follows. The next rows come from the seed and that
number, and so do masks and shifts. A run that was killed therefore continues to the same bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.block_counts import block_backward, block_forward, embedding_forward
from backbone.errors import InputError
from backbone.meshes.layout import Layout, layout_of
from backbone.meshes.processes import leads
from backbone.trees import Params
from metering.counts import Count
from trainers.data.batches import States
from trainers.fitting.loop import Trainable, fit
from trainers.fitting.state import LoopState, Step
from trainers.fitting.step import join, make_optimizer, step_of
from trainers.freezing.all import All
from trainers.freezing.schedule import Schedule, Span
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.material import Batch, Material
from trainers.pretraining.record_rows import ShuffledOrder, ahead, prefetched
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.logs import NoScalars, Scalars

HELD_OUT_SEED = 0  # random seed of the masks on held-out rows, whatever the seed of the run

Scores = dict[str, float]  # held-out means by name, as `Objective.scores` lists them


@dataclass(frozen=True)
class FittedBackbone:
    """A backbone as the loop leaves it."""

    params: Params  # {"backbone", "head"} on the host
    steps: int  # micro-batches run, in all processes of the run
    held_out: Scores  # scores of the held-out rows; "loss" in nats for each prediction
    skipped: int  # micro-batches whose loss or gradient was not finite


@dataclass(frozen=True, eq=False)
class BackboneTask(Trainable):
    """A backbone as the loop trains it: config and material, and what follows from them."""

    title: ClassVar[str] = "pretrain"
    held_out: ClassVar[str] = "held_out"

    config: BackboneConfig
    material: Material

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.config.mesh)

    @property
    def log_every(self) -> int:
        return self.config.log_every

    @property
    def checkpoint_seconds(self) -> float:
        return self.config.checkpoint_seconds

    @property
    def max_seconds(self) -> float:
        return self.config.max_seconds

    @property
    def blocks(self) -> int:
        return self.material.network.spec.blocks

    @property
    def total_steps(self) -> int:
        return self.config.steps * self.config.optimizer.accumulate

    @property
    def schedule(self) -> Schedule:
        return All()

    @property
    def spans(self) -> tuple[Span, ...]:
        return (Span(0, self.total_steps),)

    def pause_after(self, done: int) -> int:
        """Returns the next multiple of `evaluate_every`, or the end of the run."""
        every = self.config.evaluate_every
        return min(self.total_steps, (done // every + 1) * every)

    def rows(self, done: int) -> np.ndarray:
        """Returns the rows of micro-batch number `done`. Every epoch has another order; its last rows are left out."""
        size, count = self.config.batch_size, self.material.rows["train"]
        epoch, place = divmod(done, count // size)
        order = (_streamed_order if self.config.stream else _order)(self.config.seed, epoch, count)
        return order[place * size : (place + 1) * size]

    def batches(self, done: int, until: int, states: States | None) -> Iterator[Batch]:
        read = prefetched(self.read, done, until) if self.config.stream else map(self.read, range(done, until))
        return ahead(map(self.layout.batch, read))

    def read(self, number: int) -> Batch:
        """Returns a micro-batch on the host; rows that other processes need alone are zero, and not read."""
        size = self.config.batch_size
        return self.material.batch("train", self.rows(number), size, self.layout.share(size))

    def fixed(self, frozen: Params) -> Params:
        return self.layout.params(frozen)

    def make_step(self, optimizer: optax.GradientTransformation) -> Step:
        return step_of(self.loss, optimizer, seed=self.config.seed, layout=self.layout)

    def count(self, batch: Batch, boundary: int, cached: bool) -> Count:
        return self.work()

    def evaluate(self, state: LoopState) -> Scores:
        return held_out_scores(self, self.jitted_score, state.arrays["live"], state.fixed)

    @cached_property
    def loss(self) -> Callable[[Params, Params, Batch, jax.Array], tuple[jax.Array, jax.Array]]:
        objective, dtype, remat = self.config.objective, jnp.dtype(self.config.compute_dtype), self.config.remat

        def loss_of(live: Params, frozen: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
            return objective.loss(self.material, join(live, frozen), batch, rng, dtype=dtype, remat=remat)

        return loss_of

    @cached_property
    def score(self) -> Callable[[Params, Params, Batch, jax.Array], tuple[dict[str, jax.Array], jax.Array]]:
        objective, dtype = self.config.objective, jnp.dtype(self.config.compute_dtype)

        def score_of(
            live: Params, frozen: Params, batch: Batch, rng: jax.Array
        ) -> tuple[dict[str, jax.Array], jax.Array]:
            return objective.score(self.material, join(live, frozen), batch, rng, dtype=dtype)

        return score_of

    @cached_property
    def jitted_score(self) -> Any:
        """Returns `score`, compiled, with masks of the held-out batch of a number in place of a key."""

        def score_of(live: Params, frozen: Params, batch: Batch, number: jax.Array) -> Any:
            return self.score(live, frozen, batch, jax.random.fold_in(jax.random.key(HELD_OUT_SEED), number))

        return jax.jit(score_of)

    def is_live(self, path: str, boundary: int = 0) -> bool:
        """Returns whether the leaf at a dotted path of {"backbone", "head"} is trained."""
        part, _, rest = path.partition(".")
        return part == "head" or self.config.objective.is_used(rest)

    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, self.config.steps)

    def work(self) -> Count:
        """Returns the counted work of one micro-batch."""
        spec, rows, tokens = self.material.network.spec, self.config.batch_size, self.material.tokens
        block = block_forward(spec, rows, tokens) + block_backward(spec, rows, tokens, weights=True)
        ends = embedding_forward(spec, rows, tokens) + self.config.objective.head_cost(self.material, rows)
        return spec.blocks * block + 3 * ends


@functools.lru_cache(maxsize=1)  # of ten million rows it takes half a second, and every batch of an epoch needs it
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the rows int [N] in the order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


@functools.lru_cache(maxsize=2)
def _streamed_order(seed: int, epoch: int, count: int) -> ShuffledOrder:
    """Returns the same for rows that are read from disk: nothing of the size of the corpus is in memory."""
    return ShuffledOrder(seed, epoch, count)


def held_out_scores(task: BackboneTask, score: Any, live: Params, frozen: Params) -> Scores:
    """Computes the means over every held-out prediction; the masks are the same each time."""
    size, predictions, totals = task.config.batch_size, 0.0, dict.fromkeys(task.config.objective.scores, 0.0)
    count = task.material.rows["held_out"]
    for number, first in enumerate(range(0, count, size)):
        rows = np.arange(first, min(first + size, count))
        batch = task.material.batch("held_out", rows, size, task.layout.share(size))
        means, weight = jax.device_get(score(live, frozen, task.layout.batch(batch), np.uint32(number)))
        for name in totals:
            totals[name] += float(means[name]) * float(weight)
        predictions += float(weight)
    return {name: total / predictions for name, total in totals.items()}


def fit_backbone(
    task: BackboneTask, params: Params, checkpoints: Checkpoints, workdir: Path, *, show: bool
) -> FittedBackbone:
    """Trains {"backbone", "head"} to the last step, or until `max_seconds` are over.

    Raises InputError if the held-out loss at the end is not finite.
    """
    state = LoopState(task, params)
    state.restore(checkpoints)
    scalars = Scalars(workdir, state.done) if leads() else NoScalars()
    fit(task, state, checkpoints, scalars, show=show)
    history = state.progress.history
    known = bool(history) and history[-1]["step"] == state.done
    scores = {name: value for name, value in (history[-1] if known else task.evaluate(state)).items() if name != "step"}
    skipped = state.progress.skipped + int(state.arrays["sums"]["skipped"])
    if not math.isfinite(scores["loss"]):
        raise InputError(
            f"the held-out loss is {scores['loss']} after {state.done} steps, {skipped} of them skipped as not finite: "
            f"the run diverged; start another with a lower optimizer.learning_rate"
        )
    return FittedBackbone(state.params, state.done, scores, skipped)
