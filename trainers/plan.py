"""The verb `plan`: the price of a run, stage by stage, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

from backbone.files import write_durable
from backbone.records import encode
from trainers.config import TrainConfig
from trainers.pricing.price import Price, price
from trainers.runs.run import Run
from trainers.runs.workdir import PLAN


def plan(config: TrainConfig, workdir: Path | None = None, *, show: bool = False) -> Price:
    """Predicts a run's cost; with `workdir` the prediction is stored for the run's report."""
    result = price(config, Run(workdir or Path(), show))
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        write_durable(workdir / PLAN, json.dumps(encode(result), indent=1).encode())
    return result


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
    compiled = sum(s.compile_seconds for s in price.stages)
    text.append(f"beside it compilation, which this plan has paid for this machine: {compiled:.1f} s")
    text.append(f"adapters in every block: {price.adapters_everywhere_seconds:.0f} s of steps (by counted work)")
    text.append(f"full fine-tuning: {price.full_tuning_seconds:.0f} s of steps (by counted work)")
    text += [f"{'over the limit: ' if limit.met is False else ''}{limit}" for limit in price.limits]
    return "\n".join(text)
