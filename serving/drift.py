"""Drift of live inputs against the development rows of the graft that answers: lengths, labels, out-of-scope scores.

A graft with an out-of-scope score stores statistics of its development rows (`adapters.artefact.scope.Reference`).
The traffic of a task is counted in the same bins, over its last `WINDOW / 2` to `WINDOW` rows. There are two counts;
the older one is dropped when the newer one has seen half a window. A new version starts with empty counts.

A figure is None while there are too few rows: while the noise of its effect size exceeds `MAX_NOISE`. Safe to use from
any thread. Memory is a few counts for each task, for at most `max_tasks` tasks. Imports no jax.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.artefact.scope import Reference, Scope
from adapters.effects import binomial_interval, stability_index, stability_noise
from backbone.records import stored_as

WINDOW = 10_000  # rows
MAX_NOISE = 0.05  # standard deviation of an effect size without drift; 0.1 is called notable
MIN_ROWS = 100  # rows for a share out of scope


@dataclass(frozen=True)
class Share:
    """Share of rows above the score's threshold."""

    value: float = field(metadata=stored_as("found"))  # share of the window's rows
    low: float  # lower end of its 99 % interval
    high: float  # upper end
    calibrated: float  # largest share of rows in scope that should lie there


@dataclass(frozen=True)
class DriftReport:
    """The traffic of one task against its graft's development rows; None: too few rows."""

    rows: int  # rows in the window
    lengths: float | None  # population stability index of lengths in tokens
    labels: float | None  # population stability index of the most probable labels
    scores: float | None  # population stability index of the out-of-scope scores
    out_of_scope: Share | None

    def effects(self) -> dict[str, float]:
        """Returns the known effect sizes by kind."""
        effects = {"lengths": self.lengths, "labels": self.labels, "scores": self.scores}
        return {kind: value for kind, value in effects.items() if value is not None}


class BinCounts:
    """Counts of some rows in the bins of a reference."""

    def __init__(self, reference: Reference | None):
        self.rows = self.beyond = 0  # rows, and those above the threshold
        self._reference = reference
        sizes = () if reference is None else (reference.length_counts, reference.score_counts, reference.label_counts)
        self.counts = [np.zeros(len(part), np.int64) for part in sizes]

    def add(self, lengths: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Counts rows: lengths in tokens [N], scores [N], numbers of the most probable labels [N]."""
        self.rows += len(scores)
        self.beyond += int((scores > 1).sum())
        if (reference := self._reference) is None:
            return
        places = (
            np.searchsorted(reference.length_edges, lengths, side="right"),
            np.searchsorted(reference.score_edges, scores, side="right"),
            labels,
        )
        for count, place in zip(self.counts, places, strict=True):
            np.add.at(count, place, 1)


class _Window:
    """The latest rows of one version of a task."""

    def __init__(self, content_id: str, scope: Scope):
        self.content_id, self.scope = content_id, scope
        self.older, self.newer = BinCounts(scope.reference), BinCounts(scope.reference)

    def add(self, size: int, lengths: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Counts rows; drops the older counts once the newer have half of `size` rows."""
        self.newer.add(lengths, scores, labels)
        if 2 * self.newer.rows >= size:
            self.older, self.newer = self.newer, BinCounts(self.scope.reference)

    def report(self) -> DriftReport:
        """Compares the counts with those of the development rows."""
        rows, beyond = self.older.rows + self.newer.rows, self.older.beyond + self.newer.beyond
        share = None
        if rows >= MIN_ROWS:
            share = Share(beyond / rows, *binomial_interval(beyond, rows), self.scope.false_alarms)
        if (reference := self.scope.reference) is None:
            return DriftReport(rows, None, None, None, share)
        before = (reference.length_counts, reference.score_counts, reference.label_counts)
        after = [a + b for a, b in zip(self.older.counts, self.newer.counts, strict=True)]
        lengths, scores, labels = (_effect(a, b) for a, b in zip(before, after, strict=True))
        return DriftReport(rows, lengths, labels, scores, share)


def _effect(before: np.ndarray, after: np.ndarray) -> float | None:
    if not after.sum() or stability_noise(before, after) > MAX_NOISE:
        return None
    return stability_index(before, after)


class Drift:
    """Windows of the latest rows, by task."""

    def __init__(self, max_tasks: int, window: int = WINDOW):
        """Keeps at most `window` rows a window. Beyond `max_tasks`, the task without traffic for longest is dropped."""
        self._max_tasks, self._size = max_tasks, window
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._lock = threading.Lock()

    def observe(
        self,
        task: str,
        content_id: str,
        scope: Scope,
        lengths: Sequence[int],
        scores: Sequence[float],
        labels: Sequence[int],
    ) -> None:
        """Counts rows that `content_id` answered: tokens, out-of-scope scores, numbers of the most probable labels."""
        with self._lock:
            window = self._windows.get(task)
            if window is None or window.content_id != content_id:
                window = self._windows[task] = _Window(content_id, scope)
            self._windows.move_to_end(task)
            if len(self._windows) > self._max_tasks:
                self._windows.popitem(last=False)
            window.add(self._size, np.asarray(lengths), np.asarray(scores, float), np.asarray(labels, int))

    def reports(self, live: Mapping[str, str]) -> dict[str, DriftReport]:
        """Returns the reports of live versions that have a score and traffic; `live` has content ids by task."""
        with self._lock:
            return {t: window.report() for t, window in self._windows.items() if window.content_id == live.get(t)}
