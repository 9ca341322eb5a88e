"""The price of a stage: counted work, and the time of its real programs on rows of the right shape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from adapters.costs import forward, train_step
from adapters.model import GraftModel
from backbone.buckets import tokens_of
from backbone.cache import bytes_per_token, lossless, row_key
from metering.counts import Count
from metering.energy import Joules, modelled
from metering.window import on_accelerator
from trainers.data.batches import Examples
from trainers.fitting.task import GraftTask, reads_from
from trainers.freezing.schedule import Span
from trainers.pricing.timing import NOTHING, Loaded, Timing, time_pass, time_step, total
from trainers.runs.logs import bar
from trainers.runs.run import Run


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
class Timed:
    """The programs that earlier stages have timed and loaded, so that later ones need not."""

    steps: dict[tuple[int, bool, int], Timing]  # time of a step by boundary, whether it is cached, and bucket
    passes: Loaded  # programs of forward passes that are loaded

    def step(self, task: GraftTask, boundary: int, bucket: int, cached: bool) -> Timing:
        key = (boundary, cached, bucket)
        if key in self.steps:
            return replace(self.steps[key], load_seconds=0.0, load_cpu_seconds=0.0)
        return self.steps.setdefault(key, time_step(task, boundary, bucket, cached))


def stage_prices(task: GraftTask, timed: Timed, run: Run) -> list[StagePrice]:
    """Prices every stage of a fixed plan."""
    stages: list[StagePrice] = []
    before = Span(0, 0)
    for span in task.schedule.priced_as(task.shape):
        if span.until > before.until:
            stages.append(stage_price(task, before, span, timed, f"stage {len(stages) + 1}", run.show))
            before = span
    return stages


def stage_price(task: GraftTask, before: Span, span: Span, timed: Timed, what: str, show: bool) -> StagePrice:
    """Prices a stage that follows `before`; it fills its cache from what that one left."""
    config, backbone, blocks = task.config, task.backbone, task.backbone.spec.blocks
    boundary, below = span.boundary or 0, before.boundary or 0
    batches, rows = batches_of(task, before.until, span.until), filled(task)
    stored = _stored_bytes(task, rows) if boundary and reads_from(task.model, boundary) else 0
    cached = 0 < stored <= config.plan.cache_gib * 2**30
    timings = {b: timed.step(task, boundary, b, cached) for b in _progress(batches, what, show)}
    steps = total(timings[b].times(n) for b, n in batches.items())
    fill = score = NOTHING
    if cached and boundary != below:
        start = below if below < boundary and lossless(config.plan.cache) else 0
        fill = time_pass(task.model, backbone, (start, boundary), buckets_of(*rows), timed.passes)
    ended = sum(before.until < end <= span.until for end in task.order.ends)
    if task.dev and ended:
        first = boundary if cached else 0
        score = time_pass(task.model, backbone, (first, blocks), buckets_of(task.dev), timed.passes).times(ended)
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


def probe_price(task: GraftTask, timed: Timed) -> StagePrice:
    """Prices the fit of a head in closed form: one pass over the rows. The linear algebra behind it is left out."""
    buckets = buckets_of(*filled(task))
    last = task.blocks if task.config.plan.cache != "none" else max(task.model.taps)
    return pass_price(task.model, time_pass(task.model, task.backbone, (0, last), buckets, timed.passes), buckets)


def pass_price(model: GraftModel, over_rows: Timing, buckets: Counter[int]) -> StagePrice:
    """Returns the price of a pass that trains no block; `buckets` counts the rows in each."""
    work = sum((forward(model, rows, bucket) for bucket, rows in buckets.items()), Count())
    cpu = over_rows.cpu_seconds + over_rows.load_cpu_seconds
    return StagePrice(
        live="none",
        boundary=0,
        steps=0,
        padded_tokens=0,
        flops=work.flops,
        bytes_moved=work.bytes,
        compile_seconds=over_rows.compile_seconds,
        load_seconds=over_rows.load_seconds,
        cache_bytes=0,
        fill_seconds=over_rows.seconds,
        score_seconds=0.0,
        step_seconds=0.0,
        seconds=over_rows.seconds + over_rows.load_seconds,
        fill_cpu_seconds=over_rows.cpu_seconds,
        cpu_seconds=cpu,
        joules=modelled(cpu, on_accelerator()).rounded(),
    )


def filled(task: GraftTask) -> list[Examples]:
    """Returns the splits whose states a cache keeps."""
    return [examples for examples in (task.train, task.dev) if examples]


def _stored_bytes(task: GraftTask, splits: list[Examples]) -> int:
    """Returns the bytes of the states at a boundary, each distinct row once; 0 without a cache."""
    if task.config.plan.cache == "none":
        return 0
    lengths = {row_key(row): len(tokens_of(row)) for examples in splits for row in examples.rows}
    return sum(lengths.values()) * bytes_per_token(task.backbone.spec.width, task.config.plan.cache)


def buckets_of(*splits: Examples) -> Counter[int]:
    """Counts the rows in each bucket."""
    return Counter(int(bucket) for examples in splits for bucket in examples.buckets)


def batches_of(task: GraftTask, first: int, until: int) -> Counter[int]:
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


def _count(task: GraftTask, boundary: int, bucket: int, cached: bool) -> Count:
    return train_step(task.model, task.config.batch_size, bucket, boundary=boundary, cached=cached)
