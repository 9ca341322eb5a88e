"""The target of a graft as data: what it must reach, what it may cost. Imports no jax.

Every limit is checked where its figure is known: the score and the costs of a training by `train` and a gate, what a
prediction costs by both and by `export`, predicted costs by `plan`, the platform by whoever loads the graft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapters.artefact.manifest import Manifest
from backbone.errors import InputError
from backbone.records import decode


@dataclass(frozen=True)
class Target:
    """Limits on a graft's score and costs, and the platform on which it is to answer. 0 and "" = no such limit.

    A plan that chooses for itself stops by the first two; a retraining's gate checks all of them.
    """

    min_score: float = 0.0  # least value of `metric` on the development rows (at a gate: on the gate's rows)
    max_cpu_seconds: float = 0.0  # CPU seconds of the process; the climb starts no further rung after them
    max_joules: float = 0.0  # energy of a training; without a meter max_cpu_seconds decides in its place
    max_latency_ms: float = 0.0  # median time of one text's prediction, on the machine that trained
    max_memory_mb: float = 0.0  # largest resident memory while predicting, above the level after imports
    platform: Literal["", "cpu", "gpu", "tpu"] = ""  # platform that answers; latency and memory hold there

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "platform" and not 0 <= value < float("inf"):
                raise InputError(f"{name}: must be a number that is at least 0, got {value}")

    def require_platform(self, platform: str, who: str) -> None:
        """Raises InputError if `who` runs on another platform than the target's."""
        if self.platform not in ("", platform):
            raise InputError(
                f"target.platform: the graft is to answer on {self.platform}, {who} runs on {platform}; run it there, "
                "or train it with another target.platform"
            )


def target_of(manifest: Manifest) -> Target:
    """Returns the target of the config that a graft was trained with; raises InputError where it is none."""
    return decode(Target, dict(manifest.training.config.get("target", {})), "target")
