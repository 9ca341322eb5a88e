"""The rungs of a search: every point is trained a part of the way, and the best of them go on.

A piece of a trial that finds no room on the disk is lost, and the point with it; the search goes on with the others.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Protocol

from backbone.errors import InputError
from trainers.search.halving import expected_price, survivors
from trainers.search.objectives import OF_PREDICTION, Prediction
from trainers.search.pieces import Piece, SearchPlan
from trainers.search.records import Folder
from trainers.search.samplers.sampler import Sampler
from trainers.search.shared import FULL_DISK, Shared, Trial
from trainers.search.trials import Pricing, with_prediction
from trainers.search.workers import Answer, Job, Trainers

log = logging.getLogger(__name__)


class Spent(Protocol):
    """A clock of the search."""

    @property
    def spent(self) -> float:
        """Returns the CPU seconds of the search so far."""

    def add(self, seconds: float) -> None:
        """Counts CPU seconds of another process."""


class OverBudget(Exception):
    """The next piece does not fit into the budget."""


@dataclass(frozen=True, eq=False)
class Rungs:
    """The trials of a search, from the first rung to the last."""

    trials: Mapping[str, Trial]  # trial of each point
    shared: Shared
    folder: Folder
    clock: Spent
    plan: SearchPlan
    pricing: Pricing
    sampler: Sampler
    trainers: Trainers
    lost: list[str] = field(default_factory=list)  # points whose piece found no room on the disk

    def run(self) -> str:
        """Trains the points; returns why it ended before the last rung, "" if it did not."""
        alive: tuple[str, ...] = ()
        try:
            for rung in range(len(self.plan.rungs)):
                pieces: list[Piece] = []
                self._train(alive if rung else self.drawn(pieces), rung, pieces)
                if not pieces:
                    raise OSError(errno.ENOSPC, "no trial could be stored; make room, and go on with --resume")
                if rung + 1 < len(self.plan.rungs):
                    alive = survivors(pieces, self.plan.objectives)
        except OverBudget as end:
            return str(end)
        return ""

    def _train(self, identities: Iterable[str], rung: int, pieces: list[Piece]) -> None:
        """Adds the piece of each point to `pieces`, trained now unless it is stored, as many at a time as can be."""
        under_way: dict[Future[Answer], str] = {}
        if self.trainers.width > 1:  # a prediction is timed while nothing else runs
            identities = tuple(identities)
            for identity in identities:
                if self._known(identity, rung) is None:
                    self._prediction(identity, rung)
        try:
            for identity in identities:
                if (known := self._known(identity, rung)) is not None:
                    pieces.append(known)
                    continue
                self._require_affordable(identity, rung, under_way.values())
                job = Job(identity, rung, self.pricing.seconds(self.trials[identity]))
                under_way[self.trainers.submit(job)] = identity
                if len(under_way) == self.trainers.width:
                    pieces += self._collected(under_way, rung)
        except OverBudget:
            while under_way:  # paid already
                pieces += self._collected(under_way, rung)
            raise
        while under_way:
            pieces += self._collected(under_way, rung)

    def drawn(self, pieces: list[Piece]) -> Iterator[str]:
        """Yields the points of the first rung; a sampler that learns looks at the `pieces` before each.

        It stops drawing where the rungs that follow would find no budget left.
        """
        yield from self.plan.tried
        points = [trial.point for trial in self.trials.values()]
        for _ in range(self.plan.count):
            left = [point for point in points if point.id not in self.lost]
            seed = points[0].config.seed
            identity = self.sampler.choose(left, pieces, self.plan.objectives, seed, self.plan.count)[0]
            if pieces and not self._affords(identity, [piece.point for piece in pieces]):
                log.info("budget: no point after %d leaves enough for the rungs that follow", len(pieces))
                return
            yield identity

    def _affords(self, identity: str, drawn: Sequence[str]) -> bool:
        """Returns whether the budget holds one more point in the first rung, and the rungs after it of all points.

        A point whose piece is stored was afforded before.
        """
        if not self.plan.budget or (0, identity) in self.folder.pieces:
            return True
        if any(rung for rung, _ in self.folder.pieces):
            return False  # a resumed search had ended its first rung
        trial = self.trials[identity]
        others = [self.trials[one] for one in drawn]
        stepped = [one for one in (*others, trial) if not one.fitted]
        whole = expected_price([self.pricing.seconds(one) for one in stepped], self.pricing.evaluation)
        later = whole - sum(self.pricing.piece(one, 0) for one in stepped)
        new = {trial.group} - {one.group for one in others} if not trial.fitted else set()
        first = self.pricing.piece(trial, 0) + self.pricing.compile_of(new)
        return self.clock.spent + first + later <= self.plan.budget

    def _known(self, identity: str, rung: int) -> Piece | None:
        """Returns the stored piece of a point at a rung; a head that is fitted has one, at the first."""
        return self.folder.pieces.get((0 if self.trials[identity].fitted else rung, identity))

    def _require_affordable(self, identity: str, rung: int, under_way: Iterable[str]) -> None:
        """Raises OverBudget where the budget holds no further piece beside those under way."""
        needed, budget = self.pricing.piece(self.trials[identity], rung), self.plan.budget
        spent = self.clock.spent + sum(self.pricing.piece(self.trials[one], rung) for one in under_way)
        if budget and spent + needed > budget:
            raise OverBudget(f"budget: {spent:.0f} of {budget:g} CPU seconds are spent, a trial takes {needed:.0f}")

    def _collected(self, under_way: dict[Future[Answer], str], rung: int) -> list[Piece]:
        """Waits for a piece, stores it and those that have ended too, and returns them; lost ones are noted."""
        pieces = []
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            identity, answer = under_way.pop(future), future.result()
            self.clock.add(answer.cpu_seconds)
            self.shared.run.computed.rows += answer.rows
            if answer.refused:
                raise InputError(answer.refused)
            if (piece := self._stored(identity, rung, answer)) is not None:
                pieces.append(piece)
        return pieces

    def _stored(self, identity: str, rung: int, answer: Answer) -> Piece | None:
        """Stores a piece; None where the disk is full."""
        lost, piece = answer.lost, answer.piece
        if piece is not None:
            if (prediction := self._prediction(identity, rung)) is not None:
                piece = with_prediction(piece, prediction)
            piece = replace(piece, spent=round(self.clock.spent, 3))
            try:
                self.folder.add(piece)
            except OSError as error:
                if error.errno not in FULL_DISK:
                    raise
                lost = str(error)
        if piece is None or lost:
            self.lost.append(identity)
            log.warning(
                "%s: lost after rung %d, the disk is full: %s; the search goes on without it", identity, rung, lost
            )
            return None
        score, steps = f"{self.plan.metric} {piece.score:.4f}", f"{piece.steps} of {piece.total}"
        log.info("rung %d, %s: %s after %s steps", rung, identity, score, steps)
        return piece

    def _prediction(self, identity: str, rung: int) -> Prediction | None:
        """Returns the cost of a prediction, where the last comparison, an objective or a limit needs it."""
        trial, objectives = self.trials[identity], self.plan.objectives
        last = trial.fitted or rung + 1 == len(self.plan.rungs)
        if not (last or trial.inputs.config.target.max_latency_ms or set(OF_PREDICTION) & set(objectives)):
            return None
        return self.shared.prediction(trial, joules="joules" in objectives)
