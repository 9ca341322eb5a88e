"""Names of labels as evidence about their classes, beside few rows.

The mean of a class with n rows is pulled toward its name as if the name were w rows: (n m + w t) / (n + w). t is the
name's state, moved so that the names of the classes with rows have the mean of these classes: a name differs from a row
in length and style, and only what tells one name from another is evidence. w = 0 reads no name.

Which w is right depends on the names: `ironic` says little about irony, `anger` much about anger. One w chosen on few
rows would mostly be chance, so heads of several are averaged (`trainers.fitting.head_options`).

Shapes: `C` classes, `F` features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbone.trees import Params
from trainers.fitting.discriminant import Scatter, discriminant, head_of, solved

NO_NAME = (0.0,)  # pulls of heads that read no name
PULLS = (0.0, 1.0, 5.0)  # rows that a name counts as, in heads that are averaged


def discriminants(scatter: Scatter, shrinkage: float, names: np.ndarray | None, pulls: Sequence[float]) -> list[Params]:
    """Returns a discriminant for each pull toward `names` [C,F]; all of them rest on one factorisation.

    With a pull, a class without a row has the mean that its name says, and the pull as its share.
    """
    if not any(pulls):
        return [discriminant(scatter, shrinkage) for _ in pulls]
    assert names is not None
    present, counts = scatter.counts > 0, scatter.counts
    moved = names - names[present].mean(axis=0) + scatter.means[present].mean(axis=0)
    by_rows, by_names = np.split(solved(scatter, shrinkage, np.concatenate([scatter.means, moved])), 2, axis=1)

    def pulled(pull: float) -> Params:
        share = (pull / (counts + (pull or 1.0)))[:, None]  # share of a name in the mean of its class
        means = (1 - share) * scatter.means + share * moved
        return head_of(counts + pull, means, (1 - share.T) * by_rows + share.T * by_names)

    return list(map(pulled, pulls))
