"""Rows on their way through a runtime, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from adapters.artefact.scope import Scope
from adapters.predictions import Prediction
from serving.batching import Queued
from serving.residency import LoadedGraft, Served


class NotFinite(ArithmeticError):
    """A graft produced a value that is not a number for this input."""


@dataclass(frozen=True, kw_only=True)
class Answer(Prediction):
    """A prediction, and what produced it."""

    task: str
    version: str
    content_id: str
    generation: int  # promotions of the task when the version became live; 0 if nobody counts them
    submodel: str = "full"  # submodel that answered: full, or exit:N, the head at boundary N


@dataclass
class Pending:
    """A row on its way."""

    served: Served
    # resolves to the logits of the graft's labels, then the envelope's padding; with an out-of-scope score, the pooled
    # state [D] of the bare backbone follows
    future: Future[np.ndarray] = field(default_factory=Future)
    graft: LoadedGraft | None = None  # known once the graft is loaded
    row: Queued | None = None  # known once the graft is loaded
    score: float | None = None  # out-of-scope score, computed by `score_rows`

    @property
    def tokens(self) -> int:
        """Returns the length of the text as the graft reads it."""
        return 0 if self.row is None else len(self.row.ids)

    def answer(self, timeout: float | None = None) -> Answer:
        """Waits for the logits; raises what the row raised."""
        logits = self.future.result(timeout)
        assert self.graft is not None
        assert self.row is not None
        labels, scope = self.graft.labels, self.graft.scope
        if scope is not None and self.score is None:
            score_rows([self])
        scores = None if self.score is None else np.array([self.score])
        abstain = scope is not None and scope.abstain
        (prediction,) = self.graft.head.answers(labels, logits[None, : len(labels)], scores=scores, abstain=abstain)
        return Answer(
            **vars(prediction),
            task=self.served.task,
            version=self.served.version,
            content_id=self.served.content_id,
            generation=self.served.generation,
            submodel=self.row.submodel,
        )


def score_rows(pending: Sequence[Pending]) -> None:
    """Waits for the rows and sets their out-of-scope scores, graft by graft; raises what a row raised."""
    scopes: dict[int, tuple[Scope, list[Pending]]] = {}
    for row in pending:
        row.future.result()
        assert row.graft is not None
        if (scope := row.graft.scope) is not None:
            scopes.setdefault(id(scope), (scope, []))[1].append(row)
    for scope, rows in scopes.values():
        features = np.stack([row.future.result()[-scope.width :] for row in rows])
        for row, score in zip(rows, scope.scores(features).tolist(), strict=True):
            row.score = score
