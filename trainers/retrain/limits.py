"""The limits that refuse a retraining although there is work: the policy, and the price. Imports no jax."""

from __future__ import annotations

import time

import numpy as np

from trainers.config import TrainConfig
from trainers.retrain.decide import Decision, from_history, from_plan, unpriced
from trainers.retrain.diagnose import Diagnosis, added
from trainers.retrain.fingerprint import Taken
from trainers.retrain.history import Known
from trainers.retrain.lineage import PriceEstimate
from trainers.retrain.outcome import Options
from trainers.retrain.rows import Rows

DAY = 24 * 3600.0


def by_policy(config: TrainConfig, before: Known, now: Taken, diagnosis: Diagnosis, at: float | None) -> str:
    """Returns why the policy forbids to train at the time `at` (default: this machine's); "" if it does not."""
    policy = config.retrain
    stored = before.fingerprint
    like_it = now.in_scheme(stored.scheme) if stored is not None else None
    if (
        like_it is not None
        and stored is not None
        and like_it.same_settings(stored)
        and diagnosis.changed < policy.min_changed
    ):
        return f"{diagnosis.changed} rows changed, retrain.min_changed is {policy.min_changed}"
    if policy.max_per_day:
        since = (time.time() if at is None else at) - DAY
        today = sum(run.started_at > since for run in before.trainings)
        if today >= policy.max_per_day:
            return f"{today} trainings in 24 hours, retrain.max_per_day is {policy.max_per_day}"
    return ""


def price(
    decision: Decision,
    before: Known,
    diagnosis: Diagnosis,
    old: Rows | None,
    rows: Rows,
    options: Options,
    cpu_before: float,
) -> PriceEstimate:
    """Predicts CPU seconds and joules from history, else from the plan where somebody asks.

    `old` rows are the champion's, `cpu_before` the CPU seconds of the process when the verb began.
    """
    trained = diagnosis.rows.get("train", 0)
    if predicted := from_history(before.runs, decision.action, trained, diagnosis.changed_everywhere):
        return predicted
    if options.max_price is None and not options.dry_run:
        return unpriced()
    changed = 1.0
    if old and "train" in old and "train" in rows:
        changed = float(np.mean(added(old["train"], rows["train"])))
    return from_plan(decision, changed, before.runs, cpu_before)


def by_price(predicted: PriceEstimate, max_price: float | None) -> str:
    """Returns why the price is too high; "" if it is not."""
    if max_price is None or predicted.cpu_seconds is None or predicted.cpu_seconds <= max_price:
        return ""
    return f"predicted {predicted.cpu_seconds:g} CPU seconds, --max-price is {max_price:g} ({predicted.source})"
