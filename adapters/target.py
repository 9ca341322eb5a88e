"""What a graft is to reach and may cost, as data: plans, gates, export and serving read it. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import InputError


@dataclass(frozen=True)
class Target:
    """What a graft is to reach and may cost. 0 = no such limit.

    A plan that chooses for itself stops by the first two; a retraining's gate asks for all of them.
    """

    min_score: float = 0.0  # on the development rows (at a gate: the gate's rows), of `metric`
    max_cpu_seconds: float = 0.0  # of the process; no rung is begun after them
    max_joules: float = 0.0  # of a training; without a meter max_cpu_seconds decides in their place
    max_latency_ms: float = 0.0  # median of one text's prediction, on the machine that trained
    max_memory_mb: float = 0.0  # most resident memory while predicting, above the level after imports

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise InputError(f"{min(vars(self), key=vars(self).__getitem__)}: no limit may be negative")
