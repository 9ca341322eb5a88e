"""The price of a run, stage by stage, before anything is trained.

Work is counted on paper (`adapters.costs`). Time is predicted from the real compiled step. A few steps of every
(stage, bucket) are timed on made-up rows of the right shape. Their time is multiplied by the batches that the run's
order has there. The passes that fill a cache and score development rows are timed likewise, as if nothing were cached
yet. The price leaves out the reading and writing of cached states, checkpoints, and the head of a pass.

A climb has a range: the first pass and one epoch of `top`, at least; every step to its end, at most. The likely figure
lies at one of the two, by the number of labels. A stage whose boundary is open is priced as every block live. A probe
is one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapters.costs import train_step
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from metering.counts import Count
from metering.energy import Joules, modelled
from metering.window import cpu_seconds, on_accelerator
from trainers.config import Target, TrainConfig
from trainers.curation.select import with_subset
from trainers.data.batches import Examples
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.task import GraftTask
from trainers.inputs import Inputs, prepare
from trainers.pricing.climb import ClimbRange, climb_prices
from trainers.pricing.stages import StagePrice, Timed, batches_of, buckets_of, filled, probe_price, stage_prices
from trainers.pricing.timing import NOTHING, Timing, time_pass, total
from trainers.runs.memory import MemoryPlan
from trainers.runs.run import Run
from trainers.runs.targets import Limit


@dataclass(frozen=True)
class Price:
    """The price of a run; `plan --json` prints it. Of a climb, the sums are the likely ones."""

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
    setup_cpu_seconds: float  # CPU time of reading the rows and loading the backbone, which the sums leave out
    full_tuning_seconds: float  # steps with every weight live, by FLOPs at the measured rate of this plan
    adapters_everywhere_seconds: float  # steps with the same adapters in every block, all epochs
    climb: ClimbRange | None = None  # range of a climb; None for a fixed plan
    limits: tuple[Limit, ...] = ()  # every limit of target and budget, beside the prediction where there is one
    memory: MemoryPlan | None = None  # form of a step by plan.max_memory_mb, which the times hold; None: no budget
    over_budget: tuple[str, ...] = ()  # names of the budget's limits that the prediction breaks, with file and line

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command: 10 for a run over its team's budget."""
        return 10 if self.over_budget else 0


def price(config: TrainConfig, run: Run) -> Price:
    """Predicts a run's cost. Raises InputError where the run would be refused, before anything is timed."""
    before = cpu_seconds()
    ready_to_compute()
    inputs = with_subset(prepare(config, run), run)
    setup = cpu_seconds() - before
    config, model = inputs.config, inputs.model()
    difficulty = difficulty_of(config, model, inputs.backbone, inputs.train)
    task = GraftTask(config, model, inputs.backbone, inputs.train, inputs.dev, difficulty)
    timed = Timed({}, set())
    stages, climb = _priced(inputs, task, timed, run)
    exits = _exits_pass(task, inputs.calibration) if inputs.calibration is not None else NOTHING
    scope = _scope_pass(task, inputs.bare) if inputs.bare is not None else NOTHING
    return _total(config, task, stages, scope, exits, climb, setup)


def _priced(inputs: Inputs, task: GraftTask, timed: Timed, run: Run) -> tuple[list[StagePrice], ClimbRange | None]:
    """Prices the way that `trainers.train.way_of` takes."""
    if task.config.climbs:
        return climb_prices(inputs, task, timed, run)
    if task.config.adapter.fitted:
        return [probe_price(task, timed)], None
    return stage_prices(task, timed, run), None


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
    return time_pass(bare, task.backbone, (0, stop), buckets_of(*filled(task)))


def _exits_pass(task: GraftTask, calibration: Examples) -> Timing:
    """Times the graft's pass over the calibration rows, and over train rows whose states are in no cache."""
    blocks = task.blocks
    bare = max(task.config.exits.boundaries) <= min(task.model.adapted_blocks, default=blocks)
    splits = (calibration,) if bare and _first_pass_is_made(task) else (calibration, task.train)
    return time_pass(task.model, task.backbone, (0, blocks), buckets_of(*splits))


def _total(
    config: TrainConfig,
    task: GraftTask,
    stages: list[StagePrice],
    scope: Timing,
    exits: Timing,
    climb: ClimbRange | None,
    setup: float,
) -> Price:
    passes = total((scope, exits))
    seconds = sum(s.seconds for s in stages) + passes.seconds + passes.load_seconds
    cpu = sum(s.cpu_seconds for s in stages) + passes.cpu_seconds + passes.load_cpu_seconds
    trained = [s for s in stages if s.steps]  # of a climb that trains nothing, the pass tells the rate
    spent = sum(s.step_seconds for s in trained) if trained else sum(s.fill_seconds for s in stages)
    rate = sum(s.flops for s in trained or stages) / max(1e-9, spent)
    everywhere = _without_plan(config, task)
    whole = batches_of(task, 0, task.total_steps)
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
        setup_cpu_seconds=setup,
        full_tuning_seconds=full.flops / rate,
        adapters_everywhere_seconds=adapters.flops / rate,
        climb=climb,
        limits=tuple(limits_of(config.target, cpu)),
        memory=task.memory,
    )


def limits_of(target: Target, cpu_seconds: float) -> Iterator[Limit]:
    """Yields the target's limits. What only a trained graft can show is named, without a figure."""
    if target.max_cpu_seconds:
        yield Limit("target.max_cpu_seconds", cpu_seconds, target.max_cpu_seconds, "predicted CPU seconds")
    for name in ("max_joules", "min_score", "max_latency_ms", "max_memory_mb"):
        if limit := getattr(target, name):
            yield Limit(f"target.{name}", None, limit, "not predicted; the training measures it")


def _without_plan(config: TrainConfig, task: GraftTask) -> GraftModel:
    """Returns the model with the config's own methods in every block that they name."""
    return GraftModel(task.backbone.network, config.methods, config.head, task.model.labels)
