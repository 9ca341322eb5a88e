"""Names of labels as evidence about their classes, beside few rows.

The mean of a class with n rows is pulled toward its name as if the name were w rows: (n m + w t) / (n + w). t is the
name's state, moved so that the names of the classes with rows have the mean of these classes: a name differs from a row
in length and style, and only what tells one name from another is evidence. w = 0 reads no name.

A label that is no word has w = 0 beside others that are read.

Which w is right depends on the names: `ironic` says little about irony, `anger` much about anger. One w chosen on few
rows would mostly be chance, so heads of several are averaged (`trainers.fitting.head_options`).

Shapes: `C` classes, `F` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backbone.trees import Params
from trainers.fitting.discriminant import Scatter, discriminant, head_of, solved

NO_NAME = (0.0,)  # pulls of heads that read no name
PULLS = (0.0, 1.0, 5.0)  # rows that a name counts as, in heads that are averaged


@dataclass(frozen=True)
class Names:
    """The names of labels that are words, as states."""

    states: np.ndarray  # float32 [K,...], one for each name
    classes: np.ndarray  # class of each name, int [K], ascending


def discriminants(scatter: Scatter, shrinkage: float, names: Names | None, pulls: Sequence[float]) -> list[Params]:
    """Returns a discriminant for each pull toward `names`, of states [K,F]; all of them rest on one factorisation.

    With a pull, a class with a name but no row has the mean that its name says, and the pull as its share.
    """
    if not any(pulls):
        return [discriminant(scatter, shrinkage) for _ in pulls]
    assert names is not None
    counts, named = scatter.counts, np.isin(np.arange(len(scatter.counts)), names.classes)
    moved = _moved(scatter, names)
    by_rows, by_names = np.split(solved(scatter, shrinkage, np.concatenate([scatter.means, moved])), 2, axis=1)

    def pulled(pull: float) -> Params:
        share = (named * pull / (counts + (pull or 1.0)))[:, None]  # share of a name in the mean of its class
        means = (1 - share) * scatter.means + share * moved
        # a pull evens out the shares of all classes alike, so that a name makes no class more frequent
        shares = np.where(named | (counts > 0), counts + pull, 0.0)
        return head_of(shares, means, (1 - share.T) * by_rows + share.T * by_names)

    return list(map(pulled, pulls))


def _moved(scatter: Scatter, names: Names) -> np.ndarray:
    """Returns the states of names [C,F], moved to where the rows of their classes lie; of other classes the means."""
    present = scatter.counts[names.classes] > 0
    if present.any():
        shift = scatter.means[names.classes[present]].mean(axis=0) - names.states[present].mean(axis=0)
    else:
        shift = scatter.means[scatter.counts > 0].mean(axis=0) - names.states.mean(axis=0)
    moved = scatter.means.copy()
    moved[names.classes] = names.states + shift
    return moved
