"""The answers of a graft, made on the host, where nothing is compiled. Imports no jax.

Shape letters: `N` rows, `C` labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.labels.tagging import Entity


@dataclass(frozen=True)
class Prediction:
    """The answer for one text, pair or sentence."""

    labels: tuple[str, ...]  # one, any number, or a tag per word, as the head says; none where a graft abstains
    probabilities: dict[str, float]  # probability of every label, most probable first; empty for numbers and tags
    value: float | None = None  # number that is the answer, for heads of numbers
    words: tuple[str, ...] = ()  # words that the tags belong to
    entities: tuple[Entity, ...] = ()  # entities of a tagged sentence
    out_of_scope: float | None = None  # difference from the train rows; above 1 beyond the graft's threshold
    abstained: bool = False  # out of scope, and the graft gives no label there

    @property
    def label(self) -> str:
        """Returns the one label of a classification; raises ValueError for any other number of labels."""
        if len(self.labels) != 1:
            raise ValueError(f"this prediction has {len(self.labels)} labels; read .labels")
        return self.labels[0]


def labelled(
    names: tuple[str, ...],
    probabilities: np.ndarray,
    chosen: Sequence[Sequence[int]],
    scores: np.ndarray | None = None,
    *,
    abstain: bool = False,
) -> list[Prediction]:
    """Returns the answers of rows with probabilities [N,C] and the numbers of the labels that are `chosen`.

    `scores` float [N] are out-of-scope scores; with `abstain` a row whose score lies above 1 gets no label.
    """
    answers = []
    for i, row in enumerate(probabilities):
        score = None if scores is None else float(scores[i])
        abstained = abstain and score is not None and score > 1
        labels = () if abstained else tuple(names[c] for c in chosen[i])
        by_name = {names[c]: float(row[c]) for c in np.argsort(-row, kind="stable")}
        answers.append(Prediction(labels, by_name, out_of_scope=score, abstained=abstained))
    return answers
