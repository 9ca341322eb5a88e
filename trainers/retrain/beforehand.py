"""What is certain before anything is trained: what cannot be judged, and counts of rows that no one would mean.

A label that lost its rows, a file that was cut off and rows that came a second time show in the hashes of the rows.
Imports no jax.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from backbone.errors import MAX_NAME
from trainers.config.retrain import Gate, RowChecks
from trainers.retrain.lineage import Check
from trainers.retrain.rows import Rows, SplitRows

SHORT_NAME, LONG_NAME = 4, 10  # letters of a label from which on one edit is a slip, and two are
CHANGING = ("train", "dev", "gate")  # splits whose rows come from day to day; test rows stay


def unjudgeable(gate: Gate, rows: Rows) -> str:
    """Returns why no candidate on these rows could pass the gate; "" where one could."""
    split = "gate" if "gate" in rows else "dev"
    remedy = "--no-promote trains and publishes a version without judging it"
    if split not in rows:
        return f"no row is held out, so nothing can be judged: set data.gate_fraction or data.dev_fraction; {remedy}"
    held_out = rows[split]
    if len(held_out) < gate.min_rows:
        return (
            f"{len(held_out)} held-out rows, gate.min_rows asks for {gate.min_rows}: raise data.gate_fraction or "
            f"data.dev_fraction, or lower gate.min_rows; {remedy}"
        )
    slices = {f"label {name}": count for name, count in held_out.label_counts.items()}
    for bound in gate.bounds:
        if not bound.slices.startswith("label "):
            continue
        matched = {name: count for name, count in slices.items() if fnmatch.fnmatchcase(name, bound.slices)}
        if not matched:
            return (
                f"gate.bounds: no held-out row has {bound.slices!r}; there are {', '.join(list(slices)[:8])}; {remedy}"
            )
        for name, count in matched.items():
            if count < gate.min_rows:
                return (
                    f"{bound.metric}, {name}: {count} held-out rows, gate.min_rows asks for {gate.min_rows}; {remedy}"
                )
    return ""


def count_checks(limits: RowChecks, before: Rows, rows: Rows) -> Iterator[Check]:
    """Yields the checks of numbers of rows, against the rows that the live version was made from."""
    old, new = _together(before), _together(rows)
    if len(old) < limits.min_rows:
        return
    yield _lost(limits, old, new)
    yield from _labels_lost(limits, old, new)
    yield from _copies(limits, old, new)


def misspelt(before: Rows, rows: Rows, meant: Collection[str]) -> list[tuple[str, str]]:
    """Returns new labels that are spelt nearly as a former one, each with that one; those that are `meant` are none.

    One letter is another, missing, too many, or has changed its place; in long names two are. Case, blanks and marks
    count nothing. Names that differ in a number are two labels.
    """
    old, new = _together(before).label_counts, _together(rows).label_counts
    strange = [label for label in new if label not in old and label not in meant and len(label) <= MAX_NAME]
    pairs = ((label, known) for label in strange for known in old if _nearly(label, known))
    return list({label: (label, known) for label, known in pairs}.values())


def _nearly(first: str, second: str) -> bool:
    """Returns whether two labels are likely to be one."""
    if re.findall(r"\d+", first) != re.findall(r"\d+", second) or abs(len(first) - len(second)) > 6:
        return False
    left, right = ("".join(filter(str.isalnum, text.casefold())) for text in (first, second))
    if left == right:
        return bool(left)
    shortest = min(len(left), len(right))
    allowed = 0 if shortest < SHORT_NAME else 1 if shortest < LONG_NAME else 2
    return distance(left, right, allowed) <= allowed


def distance(first: str, second: str, limit: int) -> int:
    """Returns the edits between two texts, a swap of neighbours being one (Damerau 1964); `limit` + 1 for more."""
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        last, before, row = before, row, [i]
        for j, right in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
            if i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                row[j] = min(row[j], last[j - 2] + 1)
        if min(row) > limit:
            return limit + 1
    return row[-1]


def _together(rows: Rows) -> SplitRows:
    """Returns the rows of all splits that change, as one."""
    splits = [rows[name] for name in CHANGING if name in rows]
    names = tuple(dict.fromkeys(name for split in splits for name in split.names))
    place = {name: i for i, name in enumerate(names)}
    numbers = [
        np.array([place[name] for name in split.names], np.int32)[split.labels] for split in splits if len(split)
    ]
    return SplitRows(
        texts=np.concatenate([np.zeros(0, np.uint64), *(split.texts for split in splits)]),
        labels=np.concatenate([np.zeros(0, np.int32), *numbers]),
        names=names,
        lengths=np.concatenate([np.zeros(0, np.int32), *(split.lengths for split in splits)]),
    )


def part(rows: SplitRows, chosen: np.ndarray) -> SplitRows:
    """Returns the rows for which `chosen` bool [N] holds."""
    return SplitRows(rows.texts[chosen], rows.labels[chosen], rows.names, rows.lengths[chosen])


def _lost(limits: RowChecks, old: SplitRows, new: SplitRows) -> Check:
    """Checks that the data did not shrink: a file that was cut off has few rows and nothing new."""
    lost = max(0.0, 1 - len(new) / len(old))
    reason = (
        f"{len(new)} rows, the live version was made from {len(old)}: {lost:.0%} fewer, retrain.rows.max_lost allows "
        f"{limits.max_lost:.0%}"
    )
    return Check("rows lost", "FAIL" if lost > limits.max_lost else "PASS", lost, limits.max_lost, len(new), reason)


def _labels_lost(limits: RowChecks, old: SplitRows, new: SplitRows) -> Iterator[Check]:
    """Yields a check of each label of which much more is gone than of the rows altogether."""
    kept = np.isin(old.texts, new.texts)
    before, stayed, now = old.label_counts, part(old, kept).label_counts, new.label_counts
    overall = kept.mean()
    for label, count in before.items():
        lost = 1 - now.get(label, 0) / count
        gone = 1 - stayed.get(label, 0) / max(1.0, overall * count)
        if min(lost, gone) > limits.max_label_lost:
            reason = (
                f"{now.get(label, 0)} rows, the live version was made from {count}; mend the file, or say "
                "retrain.rows.max_label_lost=1 if the label may go"
            )
            yield Check(f"rows of label {label}", "FAIL", lost, limits.max_label_lost, count, reason)


def _copies(limits: RowChecks, old: SplitRows, new: SplitRows) -> Iterator[Check]:
    """Yields the check of added rows that are copies of rows which were there, as when a file is added again."""
    before, now = Counter(old.texts.tolist()), Counter(new.texts.tolist())
    more = now - before
    added = more.total()
    if added < limits.min_rows:
        return
    copies = sum(count for text, count in more.items() if text in before)
    usual = 1 - len(before) / len(old)
    share, limit = copies / added, usual + limits.max_copies
    reason = (
        f"{copies} of {added} added rows are copies of rows that were there; usual are {usual:.0%}, "
        f"retrain.rows.max_copies allows {limits.max_copies:.0%} more"
    )
    yield Check("copies among added rows", "FAIL" if share > limit else "PASS", share, limit, added, reason)
