"""A graft as the loop trains it: config, model and rows, and what follows from them."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
import optax

from adapters.costs import train_step
from adapters.forward import full_batch
from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.errors import InputError
from backbone.meshes.layout import Layout
from backbone.storage import Backbone
from backbone.trees import Params
from metering.counts import Count
from trainers.config import TrainConfig
from trainers.data.batches import Batch, Examples, States, batches
from trainers.data.order import Order
from trainers.fitting.cached_states import Boundaries, CachedPrefix
from trainers.fitting.loop import Trainable
from trainers.fitting.ranks import budgeted, require_budget
from trainers.fitting.state import LoopState, Step
from trainers.fitting.step import first_state, make_optimizer, make_step, partition, temporaries
from trainers.freezing.schedule import RunShape, Schedule, Span
from trainers.penalties.penalty import total
from trainers.runs.memory import MemoryPlan, StepForm, chosen, forms, kept, program_bytes, scratch_bytes
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

OpenCache = Callable[[Params], Boundaries | None]  # opens a cache from the adapter's leaves below a boundary


@dataclass(frozen=True, eq=False)
class GraftTask(Trainable):
    """A graft that is trained by gradient steps."""

    title: ClassVar[str] = "train"
    held_out: ClassVar[str] = "dev"

    config: TrainConfig
    model: GraftModel
    backbone: Backbone
    train: Examples
    dev: Examples | None
    difficulty: np.ndarray | None = None  # difficulty of each train row, for the curriculum
    open_cache: OpenCache | None = None  # None: blocks below the boundary run in every step
    kept_form: StepForm | None = None  # form of the steps that a run in a folder began with

    @property
    def layout(self) -> Layout:
        return self.backbone.layout

    @property
    def log_every(self) -> int:
        return self.config.log_every

    @property
    def checkpoint_seconds(self) -> float:
        return self.config.checkpoint_seconds

    @property
    def metric(self) -> str:
        return self.config.metric

    @property
    def patience(self) -> int:
        return self.config.patience

    @property
    def blocks(self) -> int:
        return self.backbone.spec.blocks

    @cached_property
    def order(self) -> Order:
        """Returns which rows make up which batch."""
        config = self.config
        return Order(
            self.train.buckets, config.batch_size, config.seed, config.epochs, config.curriculum, self.difficulty
        )

    @property
    def total_steps(self) -> int:
        return self.order.ends[-1]

    @property
    def schedule(self) -> Schedule:
        return self.config.plan.schedule

    @property
    def shape(self) -> RunShape:
        """Returns what the schedule is laid over."""
        return RunShape(self.blocks, self.order.ends, self.config.epochs, self.config.optimizer.accumulate)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        return self.schedule.spans(self.shape)

    def pause_after(self, done: int) -> int:
        """Returns the end of the epoch that is under way."""
        return next(end for end in self.order.ends if end > done)

    def batches(self, done: int, until: int, states: States | None) -> Iterator[Batch]:
        while done < until:
            epoch, first = self.order.place(done)
            last = min(until, self.order.ends[epoch])
            stream = batches(self.train, self.order, epoch, first, self.config.input_threads, states, self.layout)
            yield from islice(stream, last - done)
            done = last

    def is_live(self, path: str, boundary: int) -> bool:
        return live_from(boundary)(path)

    def fixed(self, frozen: Params) -> Params:
        return self.layout.params({"backbone": self.backbone.params, "graft": frozen})

    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, self._optimizer_steps, self._around)

    @property
    def _optimizer_steps(self) -> int:
        return -(-self.total_steps // self.config.optimizer.accumulate)

    @cached_property
    def _around(self) -> Callable[[optax.GradientTransformation], optax.GradientTransformation]:
        """Returns what the optimiser is wrapped in: the removal of ranks, where there is a budget of bytes."""
        settings = self.config.ranks
        if not settings.max_bytes:
            return lambda inner: inner
        require_budget(settings, self.model)
        if len(self.spans) > 1:
            raise InputError(
                f"ranks.max_bytes: ranks of all blocks are compared, so one stage must train them all; "
                f"plan.stages={self.config.plan.stages} has {len(self.spans)}: use all or top(k)"
            )
        return budgeted(settings, self.model, self._optimizer_steps)

    @property
    def kept_from(self) -> int:
        """Returns the micro-batches before which parameters are not kept: ranks are still being removed."""
        if not self.config.ranks.max_bytes:
            return 0
        last = math.ceil(self.config.ranks.end * self._optimizer_steps)
        return min(self.total_steps, last * self.config.optimizer.accumulate)

    def _penalty(self, live: Params, start: Params, step: jax.Array) -> jax.Array:
        """Returns the sum of the penalties in micro-batch number `step`."""
        methods, share = self.model.methods, step / self.total_steps
        return total(self.config.penalties, methods, live.get("adapter", {}), start["adapter"], share)

    def make_step(self, optimizer: optax.GradientTransformation) -> Step:
        return self.step_in(self.form, optimizer)

    def step_in(self, form: StepForm, optimizer: optax.GradientTransformation) -> Step:
        """Returns the compiled step in a form."""
        return make_step(
            self.model,
            optimizer,
            remat=form.remat,
            seed=self.config.seed,
            track=self.schedule.signal == "gradient",
            layout=self.layout,
            penalty=self._penalty if self.keeps_start else None,
            parts=form.parts,
        )

    @property
    def form(self) -> StepForm:
        """Returns the way that a step goes over its batch: that of the budget of memory, or whole batches."""
        if self.kept_form is not None:
            return self.kept_form
        return StepForm(1, self.config.remat) if self.memory is None else self.memory.form

    def in_folder(self, folder: Path) -> Self:
        """Returns the task with the form of the run in `folder`, which is chosen and stored now if it has none."""
        if not self.config.plan.max_memory_mb:
            return self
        self._require_one_device()
        return replace(self, kept_form=kept(folder, lambda: self.form))

    def _require_one_device(self) -> None:
        """Raises InputError for a budget of memory on several devices."""
        if self.layout.shards > 1 or len(self.layout.devices) > 1:
            raise InputError("plan.max_memory_mb: splits the batches of one device; leave it out, or leave out mesh")

    @cached_property
    def memory(self) -> MemoryPlan | None:
        """Returns what the budget of memory decides by the longest rows, with the blocks of every stage live.

        None without a budget. Compiles steps, and runs none. Raises InputError for a budget below the floor, and on
        several devices.
        """
        limit, config = self.config.plan.max_memory_mb, self.config
        if not limit:
            return None
        self._require_one_device()
        bucket, optimizer = int(self.train.buckets.max()), self.optimizer()
        lowest = min(span.boundary or 0 for span in self.spans)
        live, frozen = partition(self.model.abstract(), live_from(lowest))
        track = self.schedule.signal == "gradient"
        first = functools.partial(first_state, optimizer=optimizer, track=track, keep_start=self.keeps_start)
        state = jax.eval_shape(first, live)
        batch = self.train.gather(bucket, np.flatnonzero(self.train.buckets == bucket)[:1], config.batch_size)
        fixed = {"backbone": self.backbone.params, "graft": frozen}

        def step_bytes(form: StepForm) -> int:
            step: Any = self.step_in(form, optimizer)
            program = step.lower(state, fixed, batch).compile()
            tokens = config.batch_size * self.model.sides * bucket // form.parts
            return temporaries(program) + scratch_bytes(self._widest, tokens) + self._programs

        plan = chosen(forms(config.batch_size, config.remat), step_bytes, self._pass_bytes(), limit)
        log.info("memory: %s", plan)
        return plan

    def _pass_bytes(self) -> int:
        """Returns the temporaries of a forward pass over the longest rows of any split; 0 without held-out rows."""
        if self.dev is None:
            return 0
        bucket = int(max(self.train.buckets.max(), self.dev.buckets.max()))
        rows = full_batch(bucket) * self.model.sides
        inputs = {"ids": self.backbone.made_up_ids(rows, bucket), "mask": np.ones((rows, bucket), bool)}
        program = jax.jit(self.model.logits).lower(self.backbone.params, self.model.abstract(), inputs).compile()
        return temporaries(program) + scratch_bytes(self._widest, rows * bucket) + self._programs

    @property
    def _programs(self) -> int:
        """Returns the bytes of the programs that a stage keeps: one for each length of train and held-out rows."""
        splits = [examples for examples in (self.train, self.dev) if examples is not None]
        return program_bytes(sum(len(np.unique(examples.buckets)) for examples in splits))

    @property
    def _widest(self) -> int:
        """Returns the width of the widest layer of a block."""
        return max(self.backbone.spec.mlp_width, self.backbone.spec.width)

    @property
    def keeps_start(self) -> bool:
        return bool(self.config.penalties)

    def count(self, batch: Batch, boundary: int, cached: bool) -> Count:
        bucket = batch["mask"].shape[1]
        return train_step(self.model, self.config.batch_size, bucket, boundary=boundary, cached=cached)

    def evaluate(self, state: LoopState) -> dict[str, float] | None:
        if self.dev is None:
            return None
        if state.prefix is not None:
            logits = state.prefix.store.logits(state.params, self.dev, (state.prefix.boundary,))
        else:
            graft = Graft(self.model, state.params, self.backbone, self.config.data.max_tokens)
            logits = graft.logits_of_rows(self.dev.rows)
        return gather(self.model, logits, self.dev.labels).compute()

    def frozen_adapter(self, state: LoopState) -> Params:
        """Returns the adapter's leaves that no step of the stage trains, as the model reads them."""
        return dict(state.frozen.get("adapter", {}))

    def fill(self, state: LoopState, boundary: int, show: bool) -> CachedPrefix | None:
        if self.open_cache is None or not reads_from(self.model, boundary):
            return None
        store = self.open_cache(self.frozen_adapter(state))
        if store is None:
            return None
        splits = [self.train, *([self.dev] if self.dev else [])]
        # from rounded states the same run would get other bits when it is resumed, without them at hand
        below = state.prefix if state.prefix and state.prefix.boundary < boundary and store.lossless else None
        try:
            count = store.fill(splits, (boundary,), below=below, show=show)
        except MemoryError as error:
            log.warning("%s, plan.cache_gib allows less: blocks below %d run in every step", error, boundary)
            return None
        log.info("boundary %d: %d rows computed, the rest was cached", boundary, count)
        return CachedPrefix(store, boundary)


def live_from(boundary: int) -> Callable[[str], bool]:
    """Returns whether the leaf at a dotted path of the graft's tree is live while blocks from `boundary` on are."""

    def is_live(path: str) -> bool:
        part, *rest = path.split(".")
        if part != "adapter" or len(rest) < 2 or not rest[1].isdigit():
            return True  # the head, or a side network, which has no blocks of the backbone
        return int(rest[1]) >= boundary

    return is_live


def reads_from(model: GraftModel, boundary: int) -> bool:
    """Returns whether the states at `boundary` are all that the model needs of the blocks below it."""
    return min(model.taps) >= boundary
