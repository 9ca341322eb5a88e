"""The verb `plan`: the price of a run, stage by stage, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.files import write_durable
from backbone.records import encode
from registry.budgets.budget import Budget
from trainers.config import Target, TrainConfig
from trainers.pricing.price import Price, limits_of, price
from trainers.runs.run import Run
from trainers.runs.targets import Limit
from trainers.runs.workdir import PLAN


@dataclass(frozen=True)
class Shown:
    """A prediction as people read it."""

    price: Price

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command."""
        return self.price.exit_status

    def table(self) -> str:
        """Returns the prediction as text."""
        return table(self.price)


def plan(
    config: TrainConfig, workdir: Path | None = None, *, show: bool = False, budget: Budget | None = None
) -> Price:
    """Predicts a run's cost; with `workdir` the prediction is stored for the run's report.

    The narrowest of the config's target and `budget` holds. Raises InputError where the two contradict each other.
    """
    limits = budget or Budget(config.name)
    limits.require_metrics(config.head.metrics)
    limits.narrowed(config.target)
    result = _within(price(config, Run(workdir or Path(), show)), config, limits)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        write_durable(workdir / PLAN, json.dumps(encode(result), indent=1).encode())
    return result


def _within(price: Price, config: TrainConfig, budget: Budget) -> Price:
    """Returns a price with the limits of a budget beside those of the config."""
    narrowed = budget.narrowed(config.target)
    names = {f"target.{name}": shown for name, shown in narrowed.names.items()}
    limits = [replace(one, name=names.get(one.name, one.name)) for one in limits_of(narrowed.target, price.cpu_seconds)]
    further = list(_further(price, budget))
    shown = {*narrowed.names.values(), *(one.name for one in further)}
    over = tuple(one.name for one in (*limits, *further) if one.met is False and one.name in shown)
    return replace(price, limits=(*limits, *further), over_budget=over)


def _further(price: Price, budget: Budget) -> Iterator[Limit]:
    """Yields the limits that no target has, each beside the prediction where there is one."""
    predicted: dict[str, tuple[float | None, str]] = {
        "max_flops": (sum(one.flops for one in price.stages), "predicted operations of the stages"),
        "max_bytes": (sum(one.bytes_moved for one in price.stages), "predicted bytes of the stages"),
    }
    if budget.joules_quality == "modelled":
        predicted["max_joules"] = (price.joules.value, f"predicted; {price.joules.source}")
    of_target = budget.narrowed(Target()).names
    for one in budget.limits:
        if one.value is not None and one.name not in of_target:
            value, reason = predicted.get(one.name, (None, "not predicted; the gate measures it"))
            yield Limit(str(one), value, one.value, reason)


def table(price: Price) -> str:
    """Returns the prediction as a table for people."""
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
    for s in price.stages:
        joules = s.joules.value
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
                "-" if joules is None else f"{joules:.0f} ({s.joules.quality})",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
    text.append(f"this plan: {price.seconds:.0f} s, {price.cpu_seconds:.0f} CPU-s")
    if price.climb is not None:
        climb = price.climb
        text.append(
            f"a climb: {climb.lowest_cpu_seconds:.0f} to {climb.highest_cpu_seconds:.0f} CPU-s; likely it keeps "
            f"{climb.likely_step} ({climb.reason})"
        )
    if price.out_of_scope_seconds:
        text.append(f"of it the out-of-scope score: {price.out_of_scope_seconds:.1f} s (one pass, bare backbone)")
    if price.exits_seconds:
        text.append(f"of it the early exits: {price.exits_seconds:.1f} s")
    if price.memory is not None:
        text.append(f"within plan.max_memory_mb: {price.memory}")
    compiled = sum(s.compile_seconds for s in price.stages)
    text.append(f"beside it compilation, which this plan has paid for this machine: {compiled:.1f} s")
    text.append(f"adapters in every block: {price.adapters_everywhere_seconds:.0f} s of steps (by counted work)")
    text.append(f"full fine-tuning: {price.full_tuning_seconds:.0f} s of steps (by counted work)")
    text += [f"{'over the limit: ' if limit.met is False else ''}{limit}" for limit in price.limits]
    return "\n".join(text)
