"""The price of a climb: a range, with the step that is likely to be kept.

At least it takes the first pass and one epoch of `top`, after which `top` may be given up. At most it takes every step
to its end. The linear heads of the probes are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters.model import GraftModel
from adapters.specs import above
from metering.energy import modelled
from metering.window import on_accelerator
from trainers.config import TrainConfig
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.task import GraftTask
from trainers.freezing.explicit import Stage
from trainers.freezing.schedule import Span
from trainers.inputs import Inputs, climbed_blocks
from trainers.pricing.stages import StagePrice, Timed, buckets_of, filled, pass_price, stage_price
from trainers.pricing.timing import time_pass
from trainers.runs.run import Run

MANY_LABELS = 30  # a probe is likely to be kept from here on: with so many directions there is little left to adapt


@dataclass(frozen=True)
class ClimbRange:
    """What a climb may take."""

    lowest_cpu_seconds: float  # the first pass, and one epoch of the step `top`
    highest_cpu_seconds: float  # every step to its end
    likely_step: str  # step that is likely to be kept
    reason: str


def climb_prices(inputs: Inputs, task: GraftTask, timed: Timed, run: Run) -> tuple[list[StagePrice], ClimbRange]:
    """Prices the steps of a climb as stages, and returns those that are likely, with the range."""
    config, blocks = inputs.config, task.blocks
    lowest, boundary = climbed_blocks(config, blocks)
    buckets = buckets_of(*filled(task))
    over_rows = time_pass(inputs.probe(), task.backbone, (0, blocks), buckets, timed.passes)
    first_pass = over_rows.cpu_seconds + over_rows.load_cpu_seconds
    probe = pass_price(inputs.probe(), over_rows, buckets)
    if config.plan.highest in ("probe", "probe_all"):
        reason = f"plan.highest={config.plan.highest}: one pass, and linear heads on what it computes"
        return [probe], ClimbRange(first_pass, first_pass, config.plan.highest, reason)
    steps, whole = [probe], task.total_steps
    for name, first in (("top", boundary), ("all", lowest)):
        if (name == "top" or lowest < boundary) and config.plan.highest in (name, "all"):
            # the first pass has filled the boundary below `top`
            step = _step_task(inputs, first)
            steps.append(stage_price(step, Span(first, 0), Span(first, whole), timed, f"step {name}", run.show))
    highest = sum(step.cpu_seconds for step in steps)
    one_epoch = steps[1].cpu_seconds / max(1.0, config.epochs)
    labels = len(inputs.data.labels)
    reason = f"{labels} labels; from {MANY_LABELS} on a probe is likely to be kept"
    likely, last = likely_steps(config, labels, steps)
    return likely, ClimbRange(first_pass + one_epoch, highest, last, reason)


def likely_steps(config: TrainConfig, labels: int, steps: list[StagePrice]) -> tuple[list[StagePrice], str]:
    """Returns what a climb is likely to run of the first pass, `top` and the steps behind it, and the step it keeps.

    With many labels the probe is kept, and `top` is given up after one epoch.
    """
    if labels < MANY_LABELS:
        return steps, config.plan.highest
    return [steps[0], _part(steps[1], 1 / max(1.0, config.epochs))], "probe"


def _step_task(inputs: Inputs, first: int) -> GraftTask:
    """Returns the task of a step that trains the blocks from `first` on."""
    backbone = inputs.backbone
    config = replace(inputs.config, plan=replace(inputs.config.plan, stages=(Stage(f"{first}:"),)))
    methods = tuple(above(method, first, backbone.spec.blocks) for method in config.methods)
    model = GraftModel(backbone.network, methods, config.head, inputs.data.labels)
    difficulty = difficulty_of(config, model, backbone, inputs.train)
    return GraftTask(config, model, backbone, inputs.train, inputs.dev, difficulty)


def _part(stage: StagePrice, share: float) -> StagePrice:
    """Returns the price of a share of a stage's steps and scores."""
    cpu = share * stage.cpu_seconds
    return replace(
        stage,
        steps=round(share * stage.steps),
        padded_tokens=round(share * stage.padded_tokens),
        flops=share * stage.flops,
        bytes_moved=share * stage.bytes_moved,
        score_seconds=share * stage.score_seconds,
        step_seconds=share * stage.step_seconds,
        seconds=share * stage.seconds,
        cpu_seconds=cpu,
        joules=modelled(cpu, on_accelerator()).rounded(),
    )
