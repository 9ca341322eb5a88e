"""Group lasso on ranks: the norm of everything that belongs to one rank, summed over ranks.

    weight * sum_r sqrt(p_r) ||g_r||,  g_r = (column r of A, row r of B), p_r its number of entries

Source: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables", equation 2. The norm
has a kink at zero, so whole ranks become small together. Of a bottleneck the groups are its hidden units. Training by
gradient makes ranks small, not zero; `ranks.max_bytes` removes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adapters.methods.method import Array, Method
from backbone.lazy import jnp
from trainers.penalties.penalty import Part, Penalty, Ramp, rank_axes

FLOOR = 1e-12  # added to squared norms: the root has no gradient at zero


@dataclass(frozen=True)
class GroupLasso(Penalty, tag="group_lasso"):
    """Norm of each rank, or of each hidden unit of a bottleneck (Yuan and Lin 2006, equation 2)."""

    subject: ClassVar[str] = "ranks or hidden units"

    weight: float = 1e-4  # factor of the term
    schedule: Ramp = "constant"  # weight over the run

    def acts_on(self, method: Method) -> bool:
        return bool(rank_axes(method))

    def value(self, part: Part) -> Array:
        squares, entries = jnp.zeros(()), 0
        for name, axis in part.rank_axes.items():
            leaf = part.leaves[name]
            squares = squares + jnp.square(leaf).sum(axis=[other for other in range(leaf.ndim) if other != axis])
            entries += leaf.size // leaf.shape[axis]
        return jnp.sqrt(entries * (squares + FLOOR)).sum()
