"""The price of a run, stage by stage, before anything is trained.

Work is counted on paper (`adapters.costs`). Time is predicted from the real compiled step. A few steps of every
(stage, bucket) are timed on made-up rows of the right shape. Their time is multiplied by the batches that the run's
order has there. The passes that fill a cache and score development rows are timed likewise, as if nothing were cached
yet. The price leaves out the reading and writing of cached states, checkpoints, and the head of a pass.

A climb is priced as every block live to the end, and so is a stage whose boundary is open. A probe is priced as steps
on its head. That is more than they take, unless a climb goes to its last step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from adapters.costs import train_step
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from backbone.buckets import tokens_of
from backbone.cache import bytes_per_token, lossless, row_key
from metering.counts import Count
from metering.energy import Joules, modelled
from metering.window import on_accelerator
from trainers.config import Target, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.task import GraftTask, reads_from
from trainers.freezing.schedule import Span
from trainers.inputs import prepare
from trainers.pricing.timing import NOTHING, Loaded, Timing, time_pass, time_step, total
from trainers.runs.logs import bar
from trainers.runs.run import Run
from trainers.runs.targets import Limit


@dataclass(frozen=True)
class StagePrice:
    """The price of one stage. Times are predictions from timed steps, FLOPs and bytes are counted."""

    live: str  # live blocks, "0..5"; "none" for the head only
    boundary: int  # first live block
    steps: int  # micro-batches
    padded_tokens: int  # tokens of all steps, padding included
    flops: float  # counted operations of the steps
    bytes_moved: float  # counted bytes of the steps
    compile_seconds: float  # compilation of every program; pricing has paid it on this machine, so no sum holds it
    load_seconds: float  # tracing and loading of what is compiled, which a run on this machine pays instead
    cache_bytes: int  # states at the boundary, on disk
    fill_seconds: float  # the forward pass that fills them, from the boundary of the stage before
    score_seconds: float  # scoring of the development rows, after each epoch that ends in the stage
    step_seconds: float  # wall time of the steps
    seconds: float  # loading, filling, steps and scores
    fill_cpu_seconds: float  # CPU time of the pass that fills
    cpu_seconds: float  # CPU time of all that `seconds` holds
    joules: Joules  # modelled from the CPU seconds


@dataclass(frozen=True)
class Price:
    """The price of a run; `plan --json` prints it."""

    name: str  # task
    rows: int  # train rows
    epochs: float  # passes over them
    stages: tuple[StagePrice, ...]
    seconds: float  # wall time of the stages, the out-of-scope score and the exits
    cpu_seconds: float  # CPU time of the same
    joules: Joules  # modelled from the CPU seconds
    out_of_scope_seconds: float  # pass that fits the out-of-scope score; 0 where the run needs none of its own
    exits_seconds: float  # passes that fit and calibrate early exits; 0 where there are none
    passes_cpu_seconds: float  # CPU time of these two, without loading their programs
    full_tuning_seconds: float  # steps with every weight live, by FLOPs at the measured rate of this plan
    adapters_everywhere_seconds: float  # steps with the same adapters in every block, all epochs
    limits: tuple[Limit, ...] = ()  # every limit of config.target, beside the prediction where there is one


def price(config: TrainConfig, run: Run) -> Price:
    """Predicts a run's cost. Raises InputError where the run would be refused, before anything is timed."""
    ready_to_compute()
    inputs = prepare(config, run)
    config, model = inputs.config, inputs.model()
    difficulty = difficulty_of(config, model, inputs.backbone, inputs.train)
    task = GraftTask(config, model, inputs.backbone, inputs.train, inputs.dev, difficulty)
    stages: list[StagePrice] = []
    timed = _Timed({}, set())
    before = Span(0, 0)
    for span in task.schedule.priced_as(task.shape):
        if span.until > before.until:
            stages.append(_stage(task, before, span, timed, f"stage {len(stages) + 1}", run.show))
            before = span
    exits = _exits_pass(task, inputs.calibration) if inputs.calibration is not None else NOTHING
    scope = _scope_pass(task, inputs.bare) if inputs.bare is not None else NOTHING
    return _total(config, task, stages, scope, exits)


@dataclass(frozen=True)
class _Timed:
    """The programs that earlier stages have timed and loaded, so that later ones need not."""

    steps: dict[tuple[int, bool, int], Timing]  # time of a step by boundary, whether it is cached, and bucket
    passes: Loaded  # programs of forward passes that are loaded

    def step(self, task: GraftTask, boundary: int, bucket: int, cached: bool) -> Timing:
        key = (boundary, cached, bucket)
        if key in self.steps:
            return replace(self.steps[key], load_seconds=0.0, load_cpu_seconds=0.0)
        return self.steps.setdefault(key, time_step(task, boundary, bucket, cached))


def _stage(task: GraftTask, before: Span, span: Span, timed: _Timed, what: str, show: bool) -> StagePrice:
    """Prices a stage that follows `before`; it fills its cache from what that one left."""
    config, backbone, blocks = task.config, task.backbone, task.backbone.spec.blocks
    boundary, below = span.boundary or 0, before.boundary or 0
    batches, rows = _batches(task, before.until, span.until), _filled(task)
    stored = _stored_bytes(task, rows) if boundary and reads_from(task.model, boundary) else 0
    cached = 0 < stored <= config.plan.cache_gib * 2**30
    timings = {b: timed.step(task, boundary, b, cached) for b in _progress(batches, what, show)}
    steps = total(timings[b].times(n) for b, n in batches.items())
    fill = score = NOTHING
    if cached and boundary != below:
        start = below if below < boundary and lossless(config.plan.cache, config.compute_dtype) else 0
        fill = time_pass(task.model, backbone, (start, boundary), _buckets(*rows), timed.passes)
    ended = sum(before.until < end <= span.until for end in task.order.ends)
    if task.dev and ended:
        first = boundary if cached else 0
        score = time_pass(task.model, backbone, (first, blocks), _buckets(task.dev), timed.passes).times(ended)
    whole = total((steps, fill, score))
    work = sum((n * _count(task, boundary, b, cached) for b, n in batches.items()), Count())
    cpu = whole.cpu_seconds + whole.load_cpu_seconds
    return StagePrice(
        live=f"{boundary}..{blocks - 1}" if boundary < blocks else "none",
        boundary=boundary,
        steps=sum(batches.values()),
        padded_tokens=sum(b * n for b, n in batches.items()) * config.batch_size,
        flops=work.flops,
        bytes_moved=work.bytes,
        compile_seconds=whole.compile_seconds,
        load_seconds=whole.load_seconds,
        cache_bytes=stored if cached else 0,
        fill_seconds=fill.seconds,
        score_seconds=score.seconds,
        step_seconds=steps.seconds,
        seconds=whole.seconds + whole.load_seconds,
        fill_cpu_seconds=fill.cpu_seconds,
        cpu_seconds=cpu,
        joules=modelled(cpu, on_accelerator()).rounded(),
    )


def _filled(task: GraftTask) -> list[Examples]:
    """Returns the splits whose states a cache keeps."""
    return [examples for examples in (task.train, task.dev) if examples]


def _stored_bytes(task: GraftTask, splits: list[Examples]) -> int:
    """Returns the bytes of the states at a boundary, each distinct row once; 0 without a cache."""
    if task.config.plan.cache == "none":
        return 0
    lengths = {row_key(row): len(tokens_of(row)) for examples in splits for row in examples.rows}
    return sum(lengths.values()) * bytes_per_token(task.backbone.spec.width, task.config.plan.cache)


def _buckets(*splits: Examples) -> Counter[int]:
    """Counts the rows in each bucket."""
    return Counter(int(bucket) for examples in splits for bucket in examples.buckets)


def _batches(task: GraftTask, first: int, until: int) -> Counter[int]:
    """Counts the batches of each bucket in micro-batches first..until of the run."""
    counts: Counter[int] = Counter()
    done = first
    while done < until:
        epoch, start = task.order.place(done)
        last = min(until, task.order.ends[epoch])
        counts.update(bucket for bucket, _ in task.order.epoch(epoch)[start : start + last - done])
        done = last
    return counts


def _progress(batches: Counter[int], what: str, show: bool) -> Any:
    with bar(len(batches), what, "bucket", show=show) as shown:
        for bucket in sorted(batches):
            yield bucket
            shown.update()


def _first_pass_is_made(task: GraftTask) -> bool:
    """Returns whether the run computes and stores the bare backbone's pooled states anyway."""
    fits_probe = task.config.adapter.fitted or task.config.climbs
    return task.config.plan.cache != "none" and fits_probe


def _scope_pass(task: GraftTask, bare: GraftModel) -> Timing:
    """Times the pass that the out-of-scope score adds to the plan.

    A cache keeps the pooled states of every boundary, so the pass runs through all blocks. A probe on the bare
    backbone, or a climb, which begins with one, makes that pass anyway.
    """
    if _first_pass_is_made(task):
        return NOTHING
    stop = task.blocks if task.config.plan.cache != "none" else bare.taps[0]
    return time_pass(bare, task.backbone, (0, stop), _buckets(*_filled(task)))


def _exits_pass(task: GraftTask, calibration: Examples) -> Timing:
    """Times the graft's pass over the calibration rows, and over train rows whose states are in no cache."""
    blocks = task.blocks
    bare = max(task.config.exits.boundaries) <= min(task.model.adapted_blocks, default=blocks)
    splits = (calibration,) if bare and _first_pass_is_made(task) else (calibration, task.train)
    return time_pass(task.model, task.backbone, (0, blocks), _buckets(*splits))


def _count(task: GraftTask, boundary: int, bucket: int, cached: bool) -> Count:
    return train_step(task.model, task.config.batch_size, bucket, boundary=boundary, cached=cached)


def _total(config: TrainConfig, task: GraftTask, stages: list[StagePrice], scope: Timing, exits: Timing) -> Price:
    passes = total((scope, exits))
    seconds = sum(s.seconds for s in stages) + passes.seconds + passes.load_seconds
    cpu = sum(s.cpu_seconds for s in stages) + passes.cpu_seconds + passes.load_cpu_seconds
    rate = sum(s.flops for s in stages) / max(1e-9, sum(s.step_seconds for s in stages))
    everywhere = _without_plan(config, task)
    whole = _batches(task, 0, task.total_steps)
    size = config.batch_size
    adapters = sum((n * train_step(everywhere, size, b, boundary=0, cached=False) for b, n in whole.items()), Count())
    full = sum(
        (n * train_step(everywhere, size, b, boundary=0, cached=False, everything=True) for b, n in whole.items()),
        Count(),
    )
    return Price(
        name=config.name,
        rows=len(task.train),
        epochs=config.epochs,
        stages=tuple(stages),
        seconds=seconds,
        cpu_seconds=cpu,
        joules=modelled(cpu, on_accelerator()).rounded(),
        out_of_scope_seconds=scope.seconds + scope.load_seconds,
        exits_seconds=exits.seconds + exits.load_seconds,
        passes_cpu_seconds=passes.cpu_seconds,
        full_tuning_seconds=full.flops / rate,
        adapters_everywhere_seconds=adapters.flops / rate,
        limits=tuple(_limits(config.target, cpu)),
    )


def _limits(target: Target, cpu_seconds: float) -> Iterator[Limit]:
    """Yields the target's limits. What only a trained graft can show is named, without a figure."""
    if target.max_cpu_seconds:
        yield Limit("target.max_cpu_seconds", cpu_seconds, target.max_cpu_seconds, "predicted CPU seconds")
    for name in ("max_joules", "min_score", "max_latency_ms", "max_memory_mb"):
        if limit := getattr(target, name):
            yield Limit(f"target.{name}", None, limit, "not predicted; the training measures it")


def _without_plan(config: TrainConfig, task: GraftTask) -> GraftModel:
    """Returns the model with the config's own methods in every block that they name."""
    return GraftModel(task.backbone.network, config.methods, config.head, task.model.labels)
