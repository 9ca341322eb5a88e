"""The search for masks: which heads and mlp units stay, under a constraint. NumPy alone.

Source: Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers" (arXiv 2204.09656), section 4. First
the diagonal of the Fisher information says what each head and unit is worth, and one pass over the number of heads
finds the best split of the constraint (equation 7 and algorithm 1). Then heads and units within a layer are exchanged,
by the block of the Fisher matrix that belongs to the layer (equation 9).

Every block keeps one head and one unit at least. Shape letters: `N` rows, `S` blocks of the suffix, `H` heads, `U` mlp
units; a layer is the heads, or the units, of one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbone.errors import InputError


@dataclass(frozen=True)
class Masks:
    """What stays of the suffix."""

    heads: np.ndarray  # whether each head stays, bool [S,H]
    units: np.ndarray  # whether each unit stays, bool [S,U]


@dataclass(frozen=True)
class Limit:
    """A constraint on a sum over everything that stays."""

    name: str  # its option, in messages
    total: float  # the sum at most
    head: float  # what a head adds
    unit: float  # what a unit adds
    fixed: float = 0.0  # what is there whatever is removed


def search(head_gradients: np.ndarray, unit_gradients: np.ndarray, limit: Limit) -> Masks:
    """Returns the masks for gradients of each row's loss by masks of one: float [N,S,H] and [N,S,U].

    Raises InputError where one head and one unit a block exceed the limit already.
    """
    heads, units = (np.square(gradients).mean(axis=0) for gradients in (head_gradients, unit_gradients))
    kept = Masks(*_by_diagonal(heads, units, limit))
    return Masks(_exchanged(kept.heads, head_gradients), _exchanged(kept.units, unit_gradients))


def _by_diagonal(heads: np.ndarray, units: np.ndarray, limit: Limit) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks [S,H] and [S,U] of least lost importance, over every number of heads that fits."""
    head_order, unit_order = _order(heads), _order(units)
    lost_heads, lost_units = _lost(heads, head_order), _lost(units, unit_order)
    best = (np.inf, 0, 0)
    for count in range(len(heads), heads.size + 1):
        fits = int(min((limit.total - limit.fixed - count * limit.head) // limit.unit, units.size))
        if fits >= len(units):
            best = min(best, (lost_heads[count] + lost_units[fits], count, fits))
    if not best[1]:
        smallest = limit.fixed + len(heads) * limit.head + len(units) * limit.unit
        raise InputError(
            f"--{limit.name}: no mask meets it: one head and one unit in each of {len(heads)} blocks take "
            f"{smallest:.6g}, allowed are {limit.total:.6g}; allow more, or prune fewer blocks (--above)"
        )
    return _first(head_order, best[1], heads.shape), _first(unit_order, best[2], units.shape)


def _order(importance: np.ndarray) -> np.ndarray:
    """Returns the flat places by falling importance; the best of each block stand before all others."""
    ranked = importance.copy()
    ranked[np.arange(len(importance)), importance.argmax(axis=1)] = np.inf
    return np.argsort(-ranked.reshape(-1), kind="stable")


def _lost(importance: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns the importance that is lost when the first 0, 1, ... places of the order stay."""
    kept = np.concatenate([[0.0], np.cumsum(importance.reshape(-1)[order])])
    return np.asarray(kept[-1] - kept)


def _first(order: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(order.size, bool)
    mask[order[:count]] = True
    return mask.reshape(shape)


def _exchanged(mask: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Returns the mask after exchanges within each layer; as many stay as before."""
    return np.stack([_exchange(layer, gradients[:, number]) for number, layer in enumerate(mask)])


def _exchange(mask: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Replaces each removed place of a layer [U] by the one that costs least beside the others removed.

    The cost of a set R is the sum over R x R of the Fisher block, gradients' products averaged over rows [N,U].
    """
    fisher = gradients.T.astype(np.float64) @ gradients / len(gradients)
    removed = ~mask
    beside = fisher @ removed  # [U], sum of each place's entries over the removed ones
    for place in np.flatnonzero(removed):
        removed[place] = False
        beside -= fisher[place]
        cost = np.where(removed, np.inf, np.diagonal(fisher) + 2 * beside)
        chosen = place if cost[place] <= cost.min() else cost.argmin()
        removed[chosen] = True
        beside += fisher[chosen]
    return np.asarray(~removed)
