"""The training loop: stage, evaluate, checkpoint, batch, step, log.

The order matters. An epoch's end is evaluated before the checkpoint that follows it, so a resumed
run never repeats an evaluation; a checkpoint holds the state after `step` steps, and the next batch
is found from that number alone. A stage begins when the first batch after the last one's end is due:
what froze moves from the live tree to the frozen one, moments of what stays live are carried over, and
states at the new boundary are cached where the plan says so.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.costs import train_step
from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.errors import InputError
from backbone.storage import Backbone
from backbone.trees import Params, flatten, map_leaves
from metering.counts import Count
from metering.window import Cost, together, window
from trainers.config import TrainConfig
from trainers.data.batches import Batch, Examples, States, batches
from trainers.data.order import Order
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.step import carry, first_state, join, make_optimizer, make_step, no_sums, partition
from trainers.freezing.spans import Span, next_boundary, spans
from trainers.runs.checkpoints import Checkpoints, State
from trainers.runs.logs import Scalars, bar
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)


class Counts(Protocol):
    """What a loop counts whatever it trains."""

    skipped: int  # micro-batches whose loss or gradient was not finite


@dataclass
class Progress:
    """What the loop decides by; saved with each checkpoint."""

    best_score: float = -math.inf
    best_step: int = 0
    epochs_without_gain: int = 0
    stopped: bool = False
    skipped: int = 0
    boundary: int = 0  # first live block of the stage that ran last
    stage_until: int = 0  # micro-batches at which that stage ends
    norms: list[float] = field(default_factory=list)  # of each live block's accumulated gradient (gradient_ratio)
    stages: list[dict[str, Any]] = field(default_factory=list)  # end, boundary, steps and cost, of the open one too
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """What the loop returns."""

    params: Params  # {"adapter", "head"} on the host
    steps: int  # micro-batches run, in all processes of the run
    progress: Progress


def progress_of(notes: dict[str, Any]) -> Progress:
    """What a checkpoint noted; raises InputError where it is not what this version notes."""
    fresh, cost = vars(Progress()), Cost("").asdict()
    told = {"until", "boundary", "cached", "steps", *cost}
    numbers = (int, float)
    if notes.keys() == fresh.keys() and all(
        isinstance(notes[name], numbers if isinstance(value, numbers) else type(value)) for name, value in fresh.items()
    ):
        stages = [stage for stage in notes["stages"] if isinstance(stage, dict) and stage.keys() == told]
        if len(stages) == len(notes["stages"]) and all(
            isinstance(stage["joules"], dict) and stage["joules"].keys() == cost["joules"].keys() for stage in stages
        ):
            return Progress(**notes)
    raise InputError(
        "--resume: the checkpoint's notes are damaged, or of another version of Topgraft; start in another --workdir"
    )


def rows_of_steps(config: TrainConfig, progress: Progress) -> int:
    """Rows that went through the backbone in training steps, from ids rather than from a cache."""
    return sum(stage["steps"] * config.batch_size for stage in progress.stages if not stage["cached"])


@dataclass(frozen=True)
class Task:
    """Everything a loop is about, fixed before it starts."""

    config: TrainConfig
    model: GraftModel
    backbone: Backbone
    train: Examples
    dev: Examples | None
    difficulty: np.ndarray | None = None  # of each train row, for the curriculum

    @cached_property
    def order(self) -> Order:
        config = self.config
        return Order(
            self.train.buckets, config.batch_size, config.seed, config.epochs, config.curriculum, self.difficulty
        )

    @property
    def total_steps(self) -> int:
        """Micro-batches of the whole run."""
        return self.order.ends[-1]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The stages of the run."""
        blocks = self.backbone.spec.blocks
        return spans(self.config.plan, blocks, self.order.ends, self.config.epochs, self.config.optimizer.accumulate)

    def span_at(self, done: int) -> Span:
        """The stage that runs the batch after `done` batches."""
        return next((span for span in self.spans if done < span.until), self.spans[-1])

    def optimizer(self) -> optax.GradientTransformation:
        steps = -(-self.total_steps // self.config.optimizer.accumulate)
        return make_optimizer(self.config.optimizer, steps)


def score(task: Task, params: Params, examples: Examples) -> dict[str, float]:
    """Metrics of `params` on a split."""
    graft = Graft(task.model, params, task.backbone, task.config.data.max_tokens)
    logits = graft.logits_of_rows(examples.rows)
    return gather(task.model, logits, examples.labels).compute()


def live_above(boundary: int) -> Callable[[str], bool]:
    """Whether the leaf at a dotted path of the graft's tree is live when blocks from `boundary` on are."""

    def is_live(path: str) -> bool:
        part, *rest = path.split(".")
        if part != "adapter" or len(rest) < 2 or not rest[1].isdigit():
            return True  # the head, or a side network, which has no blocks of the backbone
        return int(rest[1]) >= boundary

    return is_live


def reads_from(model: GraftModel, boundary: int) -> bool:
    """Whether the states at `boundary` are all that the model needs of the blocks below: a ladder may need more."""
    return min(model.taps) >= boundary


class _Run:
    """The state of a run between two batches."""

    def __init__(self, task: Task, params: Params, make_cache: MakeCache | None):
        config = task.config
        self.task, self._make_cache = task, make_cache
        self.optimizer = task.optimizer()
        self.tracks = config.plan.schedule[0] == "gradient_ratio"
        self.step = make_step(
            task.model,
            self.optimizer,
            dtype=config.compute_dtype,
            remat=config.remat,
            seed=config.seed,
            track=self.tracks,
        )
        self.progress = Progress(boundary=task.spans[0].boundary or 0)
        self.best: Params = map_leaves(np.array, params)
        self.states: States | None = None
        self.cached: tuple[Boundaries, int] | None = None
        self._work: dict[int, Count] = {}
        self.split(params)

    def split(self, params: Params) -> None:
        """Live and frozen trees of the current boundary, with fresh moments."""
        live, self.frozen = partition(params, live_above(self.progress.boundary))
        self.state = jax.device_put(first_state(live, self.optimizer, self.tracks))
        self.everything = jax.device_put({"backbone": self.task.backbone.params, "graft": self.frozen})

    @property
    def params(self) -> Params:
        """The whole graft on the host."""
        return map_leaves(np.asarray, join(jax.device_get(self.state["live"]), self.frozen))

    def restore(self, checkpoints: Checkpoints) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        if (notes := checkpoints.notes()) is None:
            return
        self.progress = progress_of(notes)
        self.split(self.best)
        self.state, self.best, self.frozen = checkpoints.restore(self.state, self.best, self.frozen)
        self.everything = jax.device_put({"backbone": self.task.backbone.params, "graft": self.frozen})

    def begin(self, span: Span, show: bool) -> None:
        """Enters a stage: freezes and thaws, carries moments over, and fills the cache below it."""
        boundary = span.boundary
        if boundary is None:  # a stage that is resumed has been decided on
            boundary = self.progress.boundary if self.progress.stage_until == span.until else self._decide()
        self.progress.stage_until = span.until
        if boundary != self.progress.boundary:
            old, params = self.state, self.params
            self.progress.boundary = boundary
            self.split(params)
            self.state = carry(old, self.state)
        blocks = range(boundary, self.task.backbone.spec.blocks)
        log.info("stage: blocks %s live", f"{blocks[0]}..{blocks[-1]}" if blocks else "none")
        self._work = {}
        self.states, self.cached = None, self._fill(boundary, show) if boundary else None
        if self.cached is not None:
            store, at = self.cached
            self.states = lambda rows, bucket: {at: store.padded(at, rows, bucket)}

    def _decide(self) -> int:
        """The boundary that the gradients of the last two stages ask for; starts a new interval."""
        sums = flatten(jax.device_get(self.state["gradient"])["adapter"])
        blocks = self.task.backbone.spec.blocks
        first = max(self.progress.boundary, min(self.task.model.adapted_blocks, default=blocks))
        live = range(first, blocks)  # blocks below the lowest adapter have no gradient to judge by
        norms = []
        for block in live:
            leaves = [leaf for path, leaf in sums.items() if path.split(".")[1] == str(block)]
            norms.append(float(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))))
        before = self.progress.norms[-len(norms) :]
        self.progress.norms = norms
        self.state["gradient"] = jax.tree.map(jnp.zeros_like, self.state["gradient"])
        return next_boundary(before, norms, first) if norms and len(before) == len(norms) else self.progress.boundary

    def _fill(self, boundary: int, show: bool) -> tuple[Boundaries, int] | None:
        if self._make_cache is None or not reads_from(self.task.model, boundary):
            return None
        store = self._make_cache(self.frozen.get("adapter", {}))
        if store is None:
            return None
        splits = [self.task.train, *([self.task.dev] if self.task.dev else [])]
        # from rounded states the same run would get other bits when it is resumed, without them at hand
        below = self.cached if self.cached and self.cached[1] < boundary and store.lossless else None
        try:
            count = store.fill(splits, (boundary,), below=below, show=show)
        except MemoryError as error:
            log.warning("%s, plan.cache_gib allows less: blocks below %d run in every step", error, boundary)
            return None
        log.info("boundary %d: %d rows computed, the rest was cached", boundary, count)
        return store, boundary

    def tell(self, span: Span, steps: int, cost: dict[str, Any]) -> None:
        """Adds steps and their cost to what is told of the stage, of which an interrupted run may have run a part."""
        stages, at = self.progress.stages, {"until": span.until, "boundary": self.progress.boundary}
        before = stages.pop() if stages and stages[-1]["until"] == span.until else None
        if before is not None:
            steps, cost = steps + before["steps"], together(before, cost)
        stages.append({**at, "cached": self.cached is not None, "steps": steps, **cost})

    def work(self, bucket: int) -> Count:
        """Counted work of one step in this bucket."""
        if bucket not in self._work:
            boundary, cached = self.progress.boundary, self.cached is not None
            self._work[bucket] = train_step(
                self.task.model, self.task.config.batch_size, bucket, boundary=boundary, cached=cached
            )
        return self._work[bucket]

    def score(self) -> dict[str, float]:
        """Metrics on the development rows."""
        assert self.task.dev is not None
        if self.cached is None:
            return score(self.task, self.params, self.task.dev)
        logits = self.cached[0].logits(self.params, self.task.dev, (self.cached[1],))
        return gather(self.task.model, logits, self.task.dev.labels).compute()


MakeCache = Callable[[Params], Boundaries | None]  # of the adapter leaves below a boundary


def fit(
    task: Task,
    params: Params,
    checkpoints: Checkpoints,
    make_scalars: Callable[[int], Scalars],
    *,
    make_cache: MakeCache | None = None,
    stop_if: Callable[[Progress], bool] = lambda progress: False,
    show: bool,
) -> Fitted:
    """Trains `params` through the stages of the plan, to the end or to early stopping.

    `stop_if` is asked after each epoch's development score.
    """
    config, run = task.config, _Run(task, params, make_cache)
    run.restore(checkpoints)
    done, entered = int(run.state["step"]), None
    scalars = make_scalars(done)
    saved_at = time.monotonic()

    def due() -> bool:
        return 0 < config.checkpoint_seconds <= time.monotonic() - saved_at

    with bar(task.total_steps, "train", "batch", show=show, initial=done) as shown:
        while done < task.total_steps and not run.progress.stopped:
            span, first = task.span_at(done), done
            with window("stage") as cost:
                if span != entered:
                    run.begin(span, show)
                    entered = span
                done, work = _leg(run, done, span, scalars, shown, stop_if, due)
                cost.add(flops=work.flops, bytes_moved=work.bytes)
            own = {"flops": work.flops, "bytes_moved": work.bytes}  # as the price: without scores and filling
            run.tell(span, done - first, cost.asdict() | own)
            if done in task.order.ends or due():
                checkpoints.save(done, run.state, run.best, run.frozen, vars(run.progress))
                saved_at = time.monotonic()
    checkpoints.wait()
    scalars.close()
    chosen = run.best if config.select == "best" and task.dev is not None else run.params
    return Fitted(map_leaves(np.asarray, chosen), done, run.progress)


def _leg(
    run: _Run,
    done: int,
    span: Span,
    scalars: Scalars,
    shown: Any,
    stop_if: Callable[[Progress], bool],
    due: Callable[[], bool],
) -> tuple[int, Count]:
    """Steps after `done` batches, to the end of the stage or the epoch or until a checkpoint is `due`.

    Returns the batches done and the work of these steps, which are waited for.
    """
    task, log_every, work = run.task, run.task.config.log_every, Count()
    with jax.transfer_guard("disallow"):
        for batch in _stream(task, done, span.until, run.states):
            work += run.work(batch["mask"].shape[1])
            run.state = run.step(run.state, run.everything, batch)
            done += 1
            shown.update()
            epoch_ends = done in task.order.ends
            if epoch_ends or done % log_every == 0:
                run.state = log_sums(scalars, done, run.state, run.progress, shown)
            if epoch_ends:
                _end_of_epoch(run, done, scalars)
                with jax.transfer_guard("allow"):
                    run.progress.stopped |= stop_if(run.progress)
                break
            if due():
                break
    jax.block_until_ready(run.state)  # type: ignore[no-untyped-call]
    return done, work


def _stream(task: Task, done: int, until: int, states: States | None) -> Iterator[Batch]:
    """Batches number `done` to `until` of the run."""
    while done < until:
        epoch, first = task.order.place(done)
        last = min(until, task.order.ends[epoch])
        stream = batches(task.train, task.order, epoch, first, task.config.input_threads, states)
        yield from islice(stream, last - done)
        done = last


def log_sums(scalars: Scalars, done: int, state: State, progress: Counts, shown: Any) -> State:
    """Fetches and clears the sums; the only place where a loop waits for the device."""
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


def _end_of_epoch(run: _Run, done: int, scalars: Scalars) -> None:
    """Scores the development rows; keeps the best parameters so far."""
    progress, config = run.progress, run.task.config
    if run.task.dev is None:
        return
    with jax.transfer_guard("allow"):
        metrics = run.score()
    scalars.write(done, {f"dev/{name}": value for name, value in metrics.items()})
    progress.history.append({"step": done, **metrics})
    log.info("step %d: dev %s", done, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if metrics[config.metric] > progress.best_score:
        progress.best_score, progress.best_step = metrics[config.metric], done
        progress.epochs_without_gain = 0
        run.best = map_leaves(np.array, run.params)
    else:
        progress.epochs_without_gain += 1
        progress.stopped = 0 < config.patience <= progress.epochs_without_gain
