"""The limits of a target beside what was measured, for the result of a training, its plan, and a retraining's gate.

Every limit that a target sets is in the list. One that could not be measured here says why; none is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adapters.target import Target
from metering.energy import Joules
from registry.budgets.limits import is_floor, keeps, limit_of


@dataclass(frozen=True)
class Limit:
    """One limit of a target, and the figure that it bounds."""

    name: str  # field of the config, as target.max_cpu_seconds, or a limit with its line in a file of budgets
    value: float | None  # measured or predicted figure; None: not known here
    limit: float
    reason: str  # what the figure is, or why there is none

    @property
    def met(self) -> bool | None:
        """Returns whether the figure keeps to the limit; None where there is no figure."""
        if self.value is None:
            return None
        return keeps(limit_of(self.name), self.value, self.limit)

    def __str__(self) -> str:
        bound = "at least" if is_floor(limit_of(self.name)) else "at most"
        figure = "no figure" if self.value is None else f"{self.value:.4g}"
        return f"{self.name}: {figure}, {bound} {self.limit:g} asked ({self.reason})"


def costs_of_training(target: Target, cpu_seconds: float | None, joules: Joules | None) -> Iterator[Limit]:
    """Yields the limits on a training; None stands for a training that nobody measured.

    Joules are compared where a meter counted them. Elsewhere `max_cpu_seconds` decides, if it is set too.
    """
    counted = joules is not None and joules.quality == "measured_counter"
    if target.max_cpu_seconds:
        reason = "nobody measured the training" if cpu_seconds is None else "CPU seconds of the training"
        if target.max_joules and not counted:
            reason += "; they decide for target.max_joules too, since no meter counted"
        yield Limit("target.max_cpu_seconds", cpu_seconds, target.max_cpu_seconds, reason)
    if target.max_joules and joules is not None and counted:
        yield Limit("target.max_joules", joules.value, target.max_joules, joules.source)
    elif target.max_joules and not target.max_cpu_seconds:
        reason = "no meter of joules here; set target.max_cpu_seconds too, which then decides"
        yield Limit("target.max_joules", None, target.max_joules, reason)


def costs_of_predicting(
    target: Target, peak_bytes: int | None, latency_ms: Callable[[], float], platform: str
) -> Iterator[Limit]:
    """Yields the limits on predictions, measured on `platform`; on another than the target's there is no figure."""
    elsewhere = target.platform not in ("", platform)
    other = f"target.platform is {target.platform}, this is {platform}"
    if target.max_memory_mb:
        peak = None if peak_bytes is None or elsewhere else peak_bytes / 1e6
        reason = other if elsewhere else "memory cannot be measured here" if peak is None else "MB while predicting"
        yield Limit("target.max_memory_mb", peak, target.max_memory_mb, reason)
    if target.max_latency_ms:
        spent = None if elsewhere else latency_ms()
        yield Limit("target.max_latency_ms", spent, target.max_latency_ms, other if elsewhere else "ms of one row")
