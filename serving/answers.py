"""What a runtime gives back: rows on their way, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from adapters.artefact.scope import Scope
from adapters.predictions import Prediction
from serving.residency import LoadedGraft, Served


class NotFinite(ArithmeticError):
    """A graft produced a value that is not a number for this input."""


@dataclass(frozen=True, kw_only=True)
class Answer(Prediction):
    """A prediction, and what produced it."""

    task: str
    version: str
    content_id: str
    generation: int  # of the promotion that made the version live
    submodel: str = "full"  # what answered: full, bfloat16, or exit:N, the head at boundary N


@dataclass
class Pending:
    """A row on its way; `future` holds its logits, those of the labels first, then the envelope's padding.

    With a scope the pooled state [D] of the bare backbone is at the end.
    """

    served: Served
    future: Future[np.ndarray] = field(default_factory=Future)
    prepared: LoadedGraft | None = None  # known once the graft is loaded
    tokens: int = 0  # of the text, as the graft reads it
    score: float | None = None  # out-of-scope score, once it was asked for
    notes: dict[str, str] = field(default_factory=dict)  # of its row

    def answer(self, timeout: float | None = None) -> Answer:
        """Waits for the logits; raises what the row raised."""
        logits = self.future.result(timeout)
        assert self.prepared is not None
        labels, scope = self.prepared.labels, self.prepared.scope
        if scope is not None and self.score is None:
            score_rows([self])
        scores = None if self.score is None else np.array([self.score])
        abstain = scope is not None and scope.abstain
        (prediction,) = self.prepared.head.answers(labels, logits[None, : len(labels)], scores=scores, abstain=abstain)
        return Answer(
            **vars(prediction),
            task=self.served.task,
            version=self.served.version,
            content_id=self.served.content_id,
            generation=self.served.generation,
            submodel=self.notes.get("submodel", "full"),
        )


def score_rows(pending: Sequence[Pending]) -> None:
    """Waits for the rows and scores them, those of one graft at once; raises what a row raised."""
    scopes: dict[int, tuple[Scope, list[Pending]]] = {}
    for one in pending:
        one.future.result()
        assert one.prepared is not None
        if (scope := one.prepared.scope) is not None:
            scopes.setdefault(id(scope), (scope, []))[1].append(one)
    for scope, own in scopes.values():
        features = np.stack([one.future.result()[-scope.width :] for one in own])
        for one, score in zip(own, scope.scores(features).tolist(), strict=True):
            one.score = score
