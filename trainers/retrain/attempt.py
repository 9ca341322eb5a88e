"""One task retrained in this process, whatever goes wrong."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.console.log_lines import message_lines
from backbone.errors import InputError
from registry.budgets.place import budgets_for
from registry.entries import NoRegistry, RegistryError
from trainers.config import TrainConfig
from trainers.retrain.fingerprint import Taken, take
from trainers.retrain.outcome import Job, OnStep, Outcome
from trainers.retrain.run import retrain

if TYPE_CHECKING:
    from registry.database import Registry
    from registry.place import Place

log = logging.getLogger(__name__)


def attempt(job: Job, on_step: OnStep = lambda step: None, *, from_start: bool = False) -> Outcome:
    """Retrains one task in this process. Every error becomes an outcome with its exit status.

    `from_start`: the process has done nothing else, so its start and imports are part of what the task took.
    """
    started, name = time.monotonic(), Path(job.config).stem
    try:
        config = job.load(TrainConfig)
        name = config.name
        budgets = budgets_for(job.options.budgets, job.place.registry)
        budget = budgets.of(config.name)
        if job.options.promote:
            budgets.signers.require_key(job.options.sign)
        budget.require_metrics(config.head.metrics)
        budget.narrowed(config.target)  # raises where the two contradict each other
        registry, now = _opened(job.place, config)
        try:
            return retrain(
                config,
                registry,
                job.place.artefacts(),
                job.options,
                on_step,
                now,
                budget,
                budgets.signers,
                0.0 if from_start else None,
            )
        finally:
            registry.close()
    except InputError as error:
        status, reason = 2, str(error)
    except RegistryError as error:
        status, reason = error.exit_status, str(error)
    except Exception as error:  # a task's error must not end the other tasks
        log.exception("%s", name)
        status, reason = 1, f"{type(error).__name__}: {error}"
    return Outcome(name, "error", status, reason, seconds=round(time.monotonic() - started, 3))


def _opened(place: Place, config: TrainConfig) -> tuple[Registry, Taken | None]:
    """Opens the registry. A new one is made once the data are known to be good; then their fingerprint is returned."""
    try:
        return place.open(), None
    except NoRegistry:
        now = take(config, None)
        return place.open(create=True), now


def reported(outcome: Outcome) -> Outcome:
    """Prints the reason of an error to stderr, and returns the outcome."""
    if outcome.action == "error":
        print(message_lines(f"topgraft retrain: {outcome.reason}"), file=sys.stderr)
    return outcome
