"""The target of a graft as data: what it must reach, what it may cost. Imports no jax.

Plans, gates, export and serving read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import InputError


@dataclass(frozen=True)
class Target:
    """Limits on a graft's score and costs. 0 = no such limit.

    A plan that chooses for itself stops by the first two; a retraining's gate checks all of them.
    """

    min_score: float = 0.0  # least value of `metric` on the development rows (at a gate: on the gate's rows)
    max_cpu_seconds: float = 0.0  # CPU seconds of the process; the climb starts no further rung after them
    max_joules: float = 0.0  # energy of a training; without a meter max_cpu_seconds decides in its place
    max_latency_ms: float = 0.0  # median time of one text's prediction, on the machine that trained
    max_memory_mb: float = 0.0  # largest resident memory while predicting, above the level after imports

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise InputError(f"{min(vars(self), key=vars(self).__getitem__)}: no limit may be negative")
