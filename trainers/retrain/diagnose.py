"""What changed between the rows that the live version was made from and the rows there are now.

Drift is told as effect sizes, never as a test that fires on many rows and sleeps on few; below
`MIN_ROWS` on either side nothing is said. It is advice: it decides nothing. Imports no jax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adapters.effects import cohens_d, cohens_w, share_of
from trainers.retrain.fingerprint import LEARNT_FROM
from trainers.retrain.rows import Changes, Rows, SplitRows, changes

MIN_ROWS = 100  # on each side, for an effect size
# Cohen (1988): differences of means of 0.2, 0.5 and 0.8 standard deviations are small, medium and large
NOTABLE = 0.5


@dataclass(frozen=True)
class RowDrift:
    """One effect size between the rows added and the rows that were there."""

    what: str  # labels, lengths or embeddings
    effect: float | None  # None: not measured
    notable: bool
    rows: tuple[int, int]  # before, added
    reason: str = ""  # why it was not measured


@dataclass(frozen=True)
class Diagnosis:
    """What a retraining would be for."""

    changes: dict[str, Changes]  # by split
    rows: dict[str, int]  # by split, now
    labels_added: tuple[str, ...]
    labels_removed: tuple[str, ...]
    drift: tuple[RowDrift, ...]

    @property
    def changed(self) -> int:
        """Rows that differ, of those that decide what is trained."""
        return sum(self.changes[name].total for name in LEARNT_FROM if name in self.changes)

    @property
    def share(self) -> float:
        """`changed` as a share of the rows there are."""
        return self.changed / max(1, sum(self.rows.get(name, 0) for name in LEARNT_FROM))


def diagnose(old: Rows, new: Rows) -> Diagnosis:
    """Old rows against new ones; with no old rows every row is added."""
    before, after = (set(rows["train"].label_counts) if "train" in rows else set() for rows in (old, new))
    drift = tuple(label_and_length_drift(old["train"], new["train"])) if "train" in old and "train" in new else ()
    return Diagnosis(
        changes={name: changes(old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())},
        rows={name: len(split) for name, split in new.items()},
        labels_added=tuple(sorted(after - before)),
        labels_removed=tuple(sorted(before - after)),
        drift=drift,
    )


def added(old: SplitRows, new: SplitRows) -> np.ndarray:
    """Which rows of `new` have a text that `old` does not hold, bool [N]."""
    return ~np.isin(new.texts, old.texts)


def label_and_length_drift(old: SplitRows, new: SplitRows) -> list[RowDrift]:
    """Label distribution (Cohen's w) and length (difference of mean log lengths in standard deviations)."""
    fresh = added(old, new)
    rows = len(old), int(fresh.sum())
    if min(rows) < MIN_ROWS:
        reason = f"needs {MIN_ROWS} rows on each side"
        return [RowDrift(what, None, False, rows, reason) for what in ("labels", "lengths")]
    before = share_of(old.label_counts)
    after = share_of(SplitRows(new.texts[fresh], new.labels[fresh], new.names, new.lengths[fresh]).label_counts)
    w = cohens_w(before, after)
    d = cohens_d(np.log1p(old.lengths)[:, None], np.log1p(new.lengths[fresh])[:, None])
    return [RowDrift("labels", w, w >= NOTABLE, rows), RowDrift("lengths", d, d >= NOTABLE, rows)]
