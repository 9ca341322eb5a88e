"""Orthogonality of an adapter's ranks: the inner products of different ranks, squared and summed.

    weight * sum over leaves of ||offdiag(G)||_F^2,  G [R,R] the inner products of the ranks in that leaf

Source: Zhang et al. 2023 (AdaLoRA, arXiv 2303.10512), equation 4, ||P'P - I||^2 + ||QQ' - I||^2. There the lengths of
the ranks stand in a third factor. LoRA has none, and B starts at zero, so here the diagonal is left free: only the
directions count. Leaves with one axis hold a number for each rank and no direction; they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adapters.methods.method import Array, Method
from backbone.lazy import jnp
from trainers.penalties.penalty import Part, Penalty, Ramp, rank_axes


@dataclass(frozen=True)
class Orthogonality(Penalty, tag="orthogonality"):
    """Squared inner products of different ranks (after Zhang et al. 2023, arXiv 2303.10512, equation 4)."""

    subject: ClassVar[str] = "ranks or hidden units"

    weight: float = 1e-2  # factor of the term
    schedule: Ramp = "constant"  # weight over the run

    def acts_on(self, method: Method) -> bool:
        return bool(rank_axes(method))

    def value(self, part: Part) -> Array:
        term = jnp.zeros(())
        for name, axis in part.rank_axes.items():
            if (leaf := part.leaves[name]).ndim == 2:
                vectors = leaf if axis == 0 else leaf.T  # [R,N]
                products = vectors @ vectors.T
                term += jnp.square(products).sum() - jnp.square(jnp.diagonal(products)).sum()
        return term
