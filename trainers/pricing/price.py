"""The verb `plan`: what a run will cost, stage by stage, before anything is trained.

Work is counted on paper (`adapters.costs`); time is predicted from the real compiled step, timed for a
few steps in every (stage, bucket) on made-up rows of the right shape, times the number of batches that
the run's own order has there. Likewise the passes that fill a cache and score development rows, as if nothing were
cached yet. Not in it: reading and writing of cached states, checkpoints, and the head of a pass.

`auto` is priced as every block live to the end, and a probe as steps on its head: more than they take, unless `auto`
climbs to its last rung.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from adapters.costs import train_step
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.buckets import tokens_of
from backbone.cache import bytes_per_token, lossless, row_key
from backbone.files import write_durable
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.storage import load_backbone
from metering.counts import Count
from metering.energy import modelled
from trainers.config import TrainConfig
from trainers.data.batches import Examples
from trainers.data.examples import TaskData, load_data
from trainers.extras.early_exits import put_aside
from trainers.extras.out_of_scope import bare_model
from trainers.extras.variants import require_dev
from trainers.fitting.climb import climbs, require_dev_rows
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.loop import Task, reads_from
from trainers.freezing.spans import Span
from trainers.inputs import graft_model
from trainers.pricing.timing import NOTHING, Loaded, Timing, time_pass, time_step, total
from trainers.runs.logs import bar
from trainers.runs.workdir import PLAN


@dataclass(frozen=True)
class StagePrice:
    """One stage. Times are predictions from timed steps, FLOPs and bytes are counted."""

    live: str  # blocks, "0..5"; "none" for the head only
    boundary: int
    steps: int  # micro-batches
    padded_tokens: int
    flops: float
    bytes_moved: float
    compile_seconds: float  # of every program; pricing has paid it on this machine, so it is in no sum
    load_seconds: float  # what a run on this machine pays instead: tracing, and loading what is compiled
    cache_bytes: int  # states at the boundary, on disk
    fill_seconds: float  # the forward pass that fills them, from the boundary of the stage before
    score_seconds: float  # of the development rows, after each epoch that ends in the stage
    step_seconds: float
    seconds: float  # loading, filling, steps and scores
    fill_cpu_seconds: float
    cpu_seconds: float  # as seconds
    joules: dict[str, Any]  # with low, high and quality


@dataclass(frozen=True)
class Price:
    """What `plan` returns; `--json` prints it."""

    name: str
    rows: int
    epochs: float
    stages: tuple[StagePrice, ...]
    seconds: float  # stages, the out-of-scope score and the exits
    cpu_seconds: float
    joules: dict[str, Any]
    out_of_scope_seconds: float  # the pass that fits the out-of-scope score; 0 where none is asked, or nothing is added
    exits_seconds: float  # the passes that fit and calibrate early exits; 0 where there are none
    passes_cpu_seconds: float  # of these two, without what loads their programs
    full_tuning_seconds: float  # every weight live, by FLOPs at the measured rate of this plan
    adapters_everywhere_seconds: float  # the same adapters in every block, all epochs

    def table(self) -> str:
        """For people."""
        head = (
            "live",
            "steps",
            "tokens",
            "GFLOP",
            "GB moved",
            "cache MB",
            "fill s",
            "steps s",
            "scores, loading s",
            "seconds",
            "joules",
        )
        lines = [head]
        for s in self.stages:
            joules = s.joules["value"]
            lines.append(
                (
                    s.live,
                    f"{s.steps}",
                    f"{s.padded_tokens}",
                    f"{s.flops / 1e9:.0f}",
                    f"{s.bytes_moved / 1e9:.1f}",
                    f"{s.cache_bytes / 1e6:.0f}",
                    f"{s.fill_seconds:.1f}",
                    f"{s.step_seconds:.1f}",
                    f"{s.score_seconds + s.load_seconds:.1f}",
                    f"{s.seconds:.1f}",
                    "-" if joules is None else f"{joules:.0f} ({s.joules['quality']})",
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        text.append(f"this plan: {self.seconds:.0f} s, {self.cpu_seconds:.0f} CPU-s")
        if self.out_of_scope_seconds:
            text.append(f"of it the out-of-scope score: {self.out_of_scope_seconds:.1f} s (one pass, bare backbone)")
        if self.exits_seconds:
            text.append(f"of it the early exits: {self.exits_seconds:.1f} s")
        compiled = sum(s.compile_seconds for s in self.stages)
        text.append(f"beside it compilation, which this plan has paid for this machine: {compiled:.1f} s")
        text.append(f"adapters in every block: {self.adapters_everywhere_seconds:.0f} s of steps (by counted work)")
        text.append(f"full fine-tuning: {self.full_tuning_seconds:.0f} s of steps (by counted work)")
        return "\n".join(text)


def price(config: TrainConfig, workdir: Path | None = None, *, show: bool = False) -> Price:
    """Predicts a run's cost; with `workdir` the prediction is stored for the run's report."""
    use_compilation_cache()
    backbone = load_backbone(resolve_backbone(config.backbone), dtype=config.compute_dtype)
    data = load_data(config.data, config.head, backbone, show=show)
    config = replace(config, head=data.head)
    aside = None
    if config.exits.boundaries:
        data, aside = put_aside(config, backbone, data)
    require_dev(config, data)
    if climbs(config):
        require_dev_rows(data.splits)
    model = graft_model(config, backbone, data.labels)
    train, dev = data.splits["train"], data.splits.get("dev")
    task = Task(config, model, backbone, train, dev, difficulty_of(config, model, backbone, train))
    stages: list[StagePrice] = []
    timed = _Timed({}, set())
    before = Span(0, 0)
    for span in task.spans:
        if span.until > before.until:
            stages.append(_stage(task, before, span, timed, f"stage {len(stages) + 1}", show))
            before = span
    exits = _exits_pass(task, aside) if aside is not None else NOTHING
    found = _total(config, task, stages, _scope_pass(task, data), exits)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        write_durable(workdir / PLAN, json.dumps(asdict(found), indent=1).encode())
    return found


@dataclass(frozen=True)
class _Timed:
    """What earlier stages have timed, and loaded; a later one need not."""

    steps: dict[tuple[int, bool, int], Timing]  # by boundary, whether it is cached, and bucket
    passes: Loaded

    def step(self, task: Task, boundary: int, bucket: int, cached: bool) -> Timing:
        key = (boundary, cached, bucket)
        if key in self.steps:
            return replace(self.steps[key], load_seconds=0.0, load_cpu_seconds=0.0)
        return self.steps.setdefault(key, time_step(task, boundary, bucket, cached))


def _stage(task: Task, before: Span, span: Span, timed: _Timed, what: str, show: bool) -> StagePrice:
    """One stage after another; it fills its cache from what that one left."""
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
        joules=modelled(cpu, jax.default_backend() != "cpu").asdict(),
    )


def _filled(task: Task) -> list[Examples]:
    """The rows whose states a cache keeps."""
    return [examples for examples in (task.train, task.dev) if examples]


def _stored_bytes(task: Task, splits: list[Examples]) -> int:
    """Of the states of a boundary: each distinct row once; 0 without a cache."""
    if task.config.plan.cache == "none":
        return 0
    lengths = {row_key(row): len(tokens_of(row)) for examples in splits for row in examples.rows}
    return sum(lengths.values()) * bytes_per_token(task.backbone.spec.width, task.config.plan.cache)


def _buckets(*splits: Examples) -> Counter[int]:
    """Rows in each bucket."""
    return Counter(int(bucket) for examples in splits for bucket in examples.buckets)


def _batches(task: Task, first: int, until: int) -> Counter[int]:
    """Batches of each bucket in micro-batches first..until of the run."""
    found: Counter[int] = Counter()
    done = first
    while done < until:
        epoch, start = task.order.place(done)
        last = min(until, task.order.ends[epoch])
        found.update(bucket for bucket, _ in task.order.epoch(epoch)[start : start + last - done])
        done = last
    return found


def _progress(batches: Counter[int], what: str, show: bool) -> Any:
    with bar(len(batches), what, "bucket", show=show) as shown:
        for bucket in sorted(batches):
            yield bucket
            shown.update()


def _scope_pass(task: Task, data: TaskData) -> Timing:
    """What the out-of-scope score adds to the plan.

    A cache keeps the pooled states of every boundary, so a pass runs through all blocks, and a probe on the bare
    backbone, or the climb of plan.stages=auto, which begins with one, has made it already.
    """
    config, backbone = task.config, task.backbone
    if not config.out_of_scope.false_alarms:
        return NOTHING
    bare = bare_model(config, backbone, data)
    cached = config.plan.cache != "none"
    if cached and (isinstance(config.adapter, Probe) or config.plan.schedule[0] == "auto"):
        return NOTHING
    stop = backbone.spec.blocks if cached else bare.taps[0]
    return time_pass(bare, backbone, (0, stop), _buckets(*_filled(task)))


def _exits_pass(task: Task, aside: Examples) -> Timing:
    """The graft's pass over the calibration rows; and over the train rows, where their states are in no cache."""
    config, backbone = task.config, task.backbone
    blocks = backbone.spec.blocks
    bare = max(config.exits.boundaries) <= min(task.model.adapted_blocks, default=blocks)
    made = (
        bare
        and config.plan.cache != "none"
        and (isinstance(config.adapter, Probe) or config.plan.schedule[0] == "auto")
    )
    return time_pass(task.model, backbone, (0, blocks), _buckets(*((aside,) if made else (aside, task.train))))


def _count(task: Task, boundary: int, bucket: int, cached: bool) -> Count:
    return train_step(task.model, task.config.batch_size, bucket, boundary=boundary, cached=cached)


def _total(config: TrainConfig, task: Task, stages: list[StagePrice], scope: Timing, exits: Timing) -> Price:
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
        joules=modelled(cpu, jax.default_backend() != "cpu").asdict(),
        out_of_scope_seconds=scope.seconds + scope.load_seconds,
        exits_seconds=exits.seconds + exits.load_seconds,
        passes_cpu_seconds=passes.cpu_seconds,
        full_tuning_seconds=full.flops / rate,
        adapters_everywhere_seconds=adapters.flops / rate,
    )


def _without_plan(config: TrainConfig, task: Task) -> GraftModel:
    """The config's own methods, in every block that they name."""
    return GraftModel(task.backbone.network, config.methods, config.head, task.model.labels)


__all__ = ["Price", "StagePrice", "price"]
