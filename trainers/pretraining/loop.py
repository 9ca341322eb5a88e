"""The loop of `train-backbone`: batch, step, log, evaluate, checkpoint.

The state after `step` micro-batches decides everything that follows: the next rows come from the seed
and that number, masks and shifts from the same two, so a run that was killed goes on to the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.block_counts import block_backward, block_forward
from backbone.errors import InputError
from backbone.trees import Params, map_leaves
from metering.counts import Count
from metering.window import Cost
from trainers.fitting.loop import log_sums
from trainers.fitting.step import first_state, join, make_optimizer, partition, step_of
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.material import Batch, Material
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.logs import Scalars, bar

log = logging.getLogger(__name__)

HELD_OUT_SEED = 0  # of the masks on held-out rows, whatever the run's own seed

Scores = dict[str, float]  # "loss", and what else the objective measures


@dataclass
class BackboneProgress:
    """What is saved with each checkpoint beside the state."""

    skipped: int = 0
    history: list[Scores] = field(default_factory=list)  # step and held-out scores


@dataclass(frozen=True)
class FittedBackbone:
    """What the loop returns."""

    params: Params  # {"backbone", "head"} on the host
    steps: int  # micro-batches run, in all processes of the run
    held_out: Scores  # the loss in nats for each prediction
    skipped: int


@dataclass(frozen=True)
class BackboneTask:
    """Everything a loop is about, fixed before it starts."""

    config: BackboneConfig
    material: Material

    @property
    def total_steps(self) -> int:
        """Micro-batches of the whole run."""
        return self.config.steps * self.config.optimizer.accumulate

    def rows(self, done: int) -> np.ndarray:
        """The rows of micro-batch number `done`: every epoch in another order, its last rows left out."""
        size, count = self.config.batch_size, self.material.rows["train"]
        epoch, place = divmod(done, count // size)
        order = np.random.default_rng((self.config.seed, epoch)).permutation(count)
        return order[place * size : (place + 1) * size]

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

    def is_live(self, path: str) -> bool:
        """Whether the leaf at a dotted path of {"backbone", "head"} is trained."""
        part, _, rest = path.partition(".")
        return part == "head" or self.config.objective.is_used(rest)

    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, self.config.steps)

    def work(self) -> Count:
        """Counted work of one micro-batch."""
        spec, rows, tokens = self.material.network.spec, self.config.batch_size, self.material.tokens
        block = block_forward(spec, rows, tokens) + block_backward(spec, rows, tokens, weights=True)
        return spec.blocks * block + 3 * self.config.objective.head_cost(self.material, rows)


def held_out_scores(task: BackboneTask, score: Any, live: Params, frozen: Params) -> Scores:
    """Means over every held-out prediction; the masks are the same whenever it is asked."""
    size, predictions, totals = task.config.batch_size, 0.0, dict.fromkeys(task.config.objective.scores, 0.0)
    count = task.material.rows["held_out"]
    for number, first in enumerate(range(0, count, size)):
        batch = task.material.batch("held_out", np.arange(first, min(first + size, count)), size)
        with jax.transfer_guard("allow"):
            rng = jax.random.fold_in(jax.random.key(HELD_OUT_SEED), number)
        means, weight = jax.device_get(score(live, frozen, jax.device_put(batch), rng))
        for name in totals:
            totals[name] += float(means[name]) * float(weight)
        predictions += float(weight)
    return {name: total / predictions for name, total in totals.items()}


def fit_backbone(
    task: BackboneTask,
    params: Params,
    checkpoints: Checkpoints,
    make_scalars: Callable[[int], Scalars],
    cost: Cost,
    *,
    show: bool,
) -> FittedBackbone:
    """Trains {"backbone", "head"} to the last step, or until `max_seconds` are over.

    Raises InputError if the held-out loss at the end is not finite.
    """
    config, total, progress = task.config, task.total_steps, BackboneProgress()
    optimizer, work = task.optimizer(), task.work()
    live, frozen = partition(params, task.is_live)
    state = first_state(live, optimizer)
    if (notes := checkpoints.notes()) is not None:
        progress = BackboneProgress(**notes)
        state, _, frozen = checkpoints.restore(state, {}, frozen)
    state, frozen = jax.device_put((state, frozen))
    step, score = step_of(task.loss, optimizer, seed=config.seed), jax.jit(task.score)
    done = int(state["step"])
    scalars, begun = make_scalars(done), time.monotonic()
    saved_at, over = begun, False
    with bar(total, "pretrain", "batch", show=show, initial=done) as shown, jax.transfer_guard("disallow"):
        while done < total and not over:
            batch = jax.device_put(task.material.batch("train", task.rows(done), config.batch_size))
            state = step(state, frozen, batch)
            cost.add(flops=work.flops, bytes_moved=work.bytes)
            done += 1
            shown.update()
            if done % config.log_every == 0 or done == total:
                state = log_sums(scalars, done, state, progress, shown)
            if done % config.evaluate_every == 0 or done == total:
                scores = held_out_scores(task, score, state["live"], frozen)
                progress.history.append({"step": done, **scores})
                scalars.write(done, {f"held_out/{name}": x for name, x in scores.items() if math.isfinite(x)})
                log.info("step %d: held-out %s", done, ", ".join(f"{name} {x:.4f}" for name, x in scores.items()))
            now = time.monotonic()
            over = bool(config.max_seconds) and now - begun >= config.max_seconds
            due = bool(config.checkpoint_seconds) and now - saved_at >= config.checkpoint_seconds
            if done == total or over or due:
                checkpoints.save(done, state, {}, frozen, vars(progress))
                saved_at = now
    checkpoints.wait()
    scalars.close()
    known = progress.history and progress.history[-1]["step"] == done
    scores = progress.history[-1] if known else held_out_scores(task, score, state["live"], frozen)
    scores = {name: value for name, value in scores.items() if name != "step"}
    skipped = progress.skipped + int(state["sums"]["skipped"])
    if not math.isfinite(scores["loss"]):
        raise InputError(
            f"the held-out loss is {scores['loss']} after {done} steps, {skipped} of them skipped as not finite: "
            f"the run diverged; start another with a lower optimizer.learning_rate"
        )
    return FittedBackbone(map_leaves(np.asarray, join(jax.device_get(state["live"]), frozen)), done, scores, skipped)
