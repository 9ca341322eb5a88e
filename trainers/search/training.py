"""The training of one trial: the loop's own task and state, with rank, scale, rate and seed as data of the program.

A compiled step belongs to a group of trials (`trainers.search.shared`). The learning rate lies in the state of the
optimiser, the seed and the factors among the frozen arrays. AdamW's update is proportional to its rate, so a program
compiled for a rate of one serves every rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.trees import Params, flatten, map_leaves
from metering.window import cpu_seconds
from trainers.config import Optimizer
from trainers.data.batches import Batch
from trainers.fitting.cached_states import CachedPrefix
from trainers.fitting.state import LoopState, Step
from trainers.fitting.step import join, make_optimizer, step_of
from trainers.fitting.task import GraftTask
from trainers.search.padding import multiplied, scaled


def at_rate(optimizer: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """Returns an optimiser whose updates are multiplied by `rate`, which its state holds."""

    def init(params: Any) -> Any:
        return {"rate": jnp.asarray(rate, jnp.float32), "inner": optimizer.init(params)}

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(gradient, state["inner"], params)
        return jax.tree.map(lambda leaf: state["rate"] * leaf, updates), {**state, "inner": inner}

    return optax.GradientTransformation(init, update)


class Programs:
    """The compiled steps of a search, by what is no data of them."""

    def __init__(self) -> None:
        self._steps: dict[tuple[Any, ...], Step] = {}
        self._seen: set[tuple[Any, ...]] = set()  # (step, shape of a batch) that has run

    def step(self, model: GraftModel, config: Optimizer, steps: int, *, remat: bool, track: bool) -> Step:
        """Returns the step of every trial with this shared model and this optimiser but for its rate."""
        plain = replace(config, learning_rate=1.0)
        key = (model, plain, steps, remat, track)
        if key not in self._steps:

            def loss_of(live: Params, frozen: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
                params = multiplied(join(live, frozen["graft"]), frozen["factors"])
                inputs = {name: value for name, value in batch.items() if name in ("ids", "states", "mask")}
                logits = model.logits(frozen["backbone"], params, inputs, rng=rng, remat=remat)
                rows = batch["weights"].sum()
                return (model.head.loss(logits, batch["labels"]) * batch["weights"]).sum() / rows, rows

            self._steps[key] = step_of(loss_of, at_rate(make_optimizer(plain, steps), 1.0), seed=None, track=track)
        return self._steps[key]

    def is_new(self, step: Step, boundary: int, batch: Batch) -> bool:
        """Returns whether a step has not run on such a batch before, so that it compiles now."""
        key = (id(step), boundary, batch["mask"].shape, "states" in batch)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


Fill = Callable[[int], CachedPrefix | None]  # gives the states at a boundary under no adapter


@dataclass(frozen=True, eq=False)
class TrialTask(GraftTask):
    """A trial as the loop's pieces train it; `model` is the one that its group shares."""

    factors: Params = field(default_factory=dict)  # factor of each padded leaf of the adapter
    programs: Programs = field(default_factory=Programs)
    bare: Fill = lambda boundary: None  # states under a prefix without adapter, shared by all trials

    def fixed(self, frozen: Params) -> Params:
        factors = map_leaves(jnp.asarray, self.factors)
        return {**super().fixed(frozen), "factors": factors, "seed": jnp.uint32(self.config.seed)}

    def optimizer(self) -> optax.GradientTransformation:
        plain = replace(self.config.optimizer, learning_rate=1.0)
        return at_rate(make_optimizer(plain, self._updates), self.config.optimizer.learning_rate)

    @property
    def _updates(self) -> int:
        return -(-self.total_steps // self.config.optimizer.accumulate)

    def make_step(self, optimizer: optax.GradientTransformation) -> Step:
        track = self.schedule.signal == "gradient"
        return self.programs.step(
            self.model, self.config.optimizer, self._updates, remat=self.config.remat, track=track
        )

    def frozen_adapter(self, state: LoopState) -> Params:
        return scaled(state.frozen.get("adapter", {}), self.factors)

    def fill(self, state: LoopState, boundary: int, show: bool) -> CachedPrefix | None:
        if flatten(state.frozen.get("adapter", {})):
            return super().fill(state, boundary, show)
        return self.bare(boundary)

    def logits(self, state: LoopState) -> np.ndarray:
        """Returns the logits float32 [N,C] of the development rows, or [N,T,C] of tokens."""
        assert self.dev is not None
        params = multiplied(state.params, self.factors)
        if state.prefix is not None:
            return state.prefix.store.logits(params, self.dev, (state.prefix.boundary,))
        return Graft(self.model, params, self.backbone, self.config.data.max_tokens).logits_of_rows(self.dev.rows)


@dataclass(frozen=True)
class Advance:
    """The cost of a few steps."""

    steps: int  # micro-batches run now
    step_cpu_seconds: float  # CPU seconds of a step that was compiled before; 0.0 where none was


def advance(task: TrialTask, state: LoopState, until: int) -> Advance:
    """Runs micro-batches up to number `until`, through the stages of the plan."""
    first, timed, spent = state.done, 0, 0.0
    state.enter(task.span_at(max(0, min(state.done, until - 1))), False)
    while state.done < until:
        span = task.span_at(state.done)
        state.enter(span, False)
        before = cpu_seconds()
        for batch in task.batches(state.done, min(span.until, until), state.states):
            if task.programs.is_new(state.step, state.progress.boundary, batch):
                spent += cpu_seconds() - before
                state.arrays = state.step(state.arrays, state.fixed, batch)
                jax.block_until_ready(state.arrays)  # type: ignore[no-untyped-call]
                before = cpu_seconds()
            else:
                state.arrays, timed = state.step(state.arrays, state.fixed, batch), timed + 1
            state.done += 1
        jax.block_until_ready(state.arrays)  # type: ignore[no-untyped-call]
        spent += cpu_seconds() - before
    return Advance(state.done - first, spent / timed if timed else 0.0)
