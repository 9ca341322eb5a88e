"""The rungs of a search: every point is trained a part of the way, and the best of them go on.

A piece of a trial that finds no room on the disk is lost, and the point with it; the search goes on with the others.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trainers.search.halving import expected_price, survivors
from trainers.search.pieces import Piece, SearchPlan
from trainers.search.records import Folder
from trainers.search.samplers.sampler import Sampler
from trainers.search.shared import FULL_DISK, Shared, Trial
from trainers.search.trials import Pricing, tried

log = logging.getLogger(__name__)


class Spent(Protocol):
    """A clock of the search."""

    @property
    def spent(self) -> float:
        """Returns the CPU seconds of the search so far."""


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
    lost: list[str] = field(default_factory=list)  # points whose piece found no room on the disk

    def run(self) -> str:
        """Trains the points; returns why it ended before the last rung, "" if it did not."""
        alive: tuple[str, ...] = ()
        try:
            for rung in range(len(self.plan.rungs)):
                pieces: list[Piece] = []
                for identity in alive if rung else self.drawn(pieces):
                    if (piece := self._piece(identity, rung)) is not None:
                        pieces.append(piece)
                if not pieces:
                    raise OSError(errno.ENOSPC, "no trial could be stored; make room, and go on with --resume")
                if rung + 1 < len(self.plan.rungs):
                    alive = survivors(pieces, self.plan.objectives)
        except OverBudget as end:
            return str(end)
        return ""

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

    def _piece(self, identity: str, rung: int) -> Piece | None:
        """Returns the piece of a point at a rung, trained now unless it is stored; None where the disk is full."""
        trial, plan = self.trials[identity], self.plan
        known = self.folder.pieces.get((0 if trial.fitted else rung, identity))
        if known is not None:  # stored before, or a head that is fitted once
            return known
        needed, spent = self.pricing.piece(trial, rung), self.clock.spent
        if plan.budget and spent + needed > plan.budget:
            raise OverBudget(
                f"budget: {spent:.0f} of {plan.budget:g} CPU seconds are spent, a trial takes {needed:.0f}"
            )
        try:
            piece = tried(trial, rung, self.shared, self.folder, plan.objectives, self.clock, self.pricing)
            self.folder.add(piece)
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            self.lost.append(identity)
            log.warning(
                "%s: lost after rung %d, the disk is full: %s; the search goes on without it", identity, rung, error
            )
            return None
        score, steps = f"{plan.metric} {piece.score:.4f}", f"{piece.steps} of {piece.total}"
        log.info("rung %d, %s: %s after %s steps", rung, identity, score, steps)
        return piece
