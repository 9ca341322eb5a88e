"""Decay towards the start: squared distance of the adapter from its values when the run began.

    weight / 2 * ||w - w0||^2

Source: Li et al. 2018 (L2-SP, arXiv 1802.01483), equation 2, without its second term for the head, which
`optimizer.weight_decay` is. After a warm start w0 is the parent's adapter. Else it is a fresh one, which changes
nothing, so the graft stays near the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adapters.methods.method import Array, Method
from backbone.lazy import jnp
from trainers.penalties.penalty import Part, Penalty, Ramp


@dataclass(frozen=True)
class DecayToStart(Penalty, tag="decay_to_start"):
    """Half the squared distance of the adapter from its start (Li et al. 2018, arXiv 1802.01483, equation 2)."""

    subject: ClassVar[str] = "an adapter that is trained"

    weight: float = 1e-3  # factor of the term
    schedule: Ramp = "constant"  # weight over the run

    def acts_on(self, method: Method) -> bool:
        return not method.fitted

    def value(self, part: Part) -> Array:
        moved = [jnp.square(leaf - part.start[name]).sum() for name, leaf in part.leaves.items()]
        return 0.5 * sum(moved, jnp.zeros(()))
