"""What a graft answers: logits to labels and probabilities, on the host, where nothing is compiled.

Shape letters: `N` rows, `C` labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.heads import head_of
from adapters.specs import HeadSpec, MultiLabel, Regression
from adapters.tagging import Entity


@dataclass(frozen=True)
class Prediction:
    """The answer for one text, pair or sentence."""

    # one for classification; any number for multi_label; a tag per word for tagging; none where a graft abstains
    labels: tuple[str, ...]
    probabilities: dict[str, float]  # of every label, most probable first; empty for regression and tagging
    value: float | None = None  # regression: the number
    words: tuple[str, ...] = ()  # tagging: what the tags are of
    entities: tuple[Entity, ...] = ()  # tagging
    out_of_scope: float | None = None  # how unlike the train rows; above 1 beyond the graft's threshold
    abstained: bool = False  # out of scope, and the graft gives no label there

    @property
    def label(self) -> str:
        """The one label of a classification."""
        if len(self.labels) != 1:
            raise ValueError(f"this prediction has {len(self.labels)} labels; read .labels")
        return self.labels[0]


def predictions(
    head: HeadSpec,
    labels: tuple[str, ...],
    logits: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    abstain: bool = False,
) -> list[Prediction]:
    """The answer for each row of logits float32 [N,C]; of every head but tagging, whose answers are by word.

    `scores` float [N] are out-of-scope scores; where one lies above 1, a graft that is to `abstain` gives no label.
    """
    code = head_of(head)
    probabilities = code.probabilities(logits)
    decided = code.decide(head, probabilities)
    if isinstance(head, Regression):
        return [Prediction((), {}, value=float(number)) for number in decided]
    answers = []
    for i, row in enumerate(probabilities):
        chosen: Sequence[int] = np.flatnonzero(decided[i]).tolist() if isinstance(head, MultiLabel) else [decided[i]]
        score = None if scores is None else float(scores[i])
        abstained = abstain and score is not None and score > 1
        if abstained:
            chosen = []
        order = np.argsort(-row, kind="stable")
        told = {labels[c]: float(row[c]) for c in order}
        names = tuple(labels[c] for c in chosen)
        answers.append(Prediction(names, told, out_of_scope=score, abstained=abstained))
    return answers
