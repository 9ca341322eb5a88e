"""The difference between the rows that the live version was made from and the rows as they are now.

Drift is given as effect sizes. A significance test would fire on many rows and stay silent on few. With fewer than
`MIN_ROWS` rows on either side there is no effect size. A diagnosis is advice and decides nothing. Imports no jax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adapters.effects import cohens_d, cohens_w, share_of
from trainers.retrain.fingerprint import LEARNT_FROM
from trainers.retrain.lineage import ChangeReport, Changes, RowDrift
from trainers.retrain.rows import Rows, SplitRows, changes

MIN_ROWS = 100  # rows on each side that an effect size needs
NOTABLE = 0.5  # effect size from which drift is reported: medium, by Cohen (1988); 0.2 is small, 0.8 large


@dataclass(frozen=True)
class Diagnosis:
    """Reasons for a retraining."""

    changes: dict[str, Changes]  # changed rows of each split
    rows: dict[str, int]  # number of rows of each split now
    labels_added: tuple[str, ...]  # labels of the train rows that are new
    labels_removed: tuple[str, ...]  # labels that no train row has any more
    drift: tuple[RowDrift, ...]  # drift of the train rows

    @property
    def changed(self) -> int:
        """Returns the number of rows that differ in the splits that decide what is trained."""
        return sum(self.changes[name].total for name in LEARNT_FROM if name in self.changes)

    @property
    def changed_everywhere(self) -> int:
        """Returns the number of rows that differ in any split, held-out ones included."""
        return sum(change.total for change in self.changes.values())

    @property
    def share(self) -> float:
        """Returns `changed` as a share of the present rows of those splits."""
        return self.changed / max(1, sum(self.rows.get(name, 0) for name in LEARNT_FROM))

    def report(self) -> ChangeReport:
        """Returns the record of the changes, with the two figures of them all."""
        return ChangeReport(**vars(self), changed=self.changed, share=round(self.share, 6))


def diagnose(old: Rows, new: Rows) -> Diagnosis:
    """Compares old rows with new ones; without old rows every row is added."""
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
    """Returns which rows of `new` have a text that `old` does not hold, bool [N]."""
    return ~np.isin(new.texts, old.texts)


def label_and_length_drift(old: SplitRows, new: SplitRows) -> list[RowDrift]:
    """Measures how the added rows differ from the old ones in labels and in lengths.

    Labels: Cohen's w of the two distributions. Lengths: the difference of mean log lengths in standard deviations.
    """
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
