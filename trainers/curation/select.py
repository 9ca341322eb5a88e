"""The choice of the rows that a run learns from, with a reason for each.

    inputs = with_subset(prepare(config, run), run)     # the train rows are those of config.subset

Near-duplicates are left out first. Then each group gets its number of rows, and the method chooses among them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from trainers.curation.facts import TrainFacts
from trainers.curation.near import NearRow, near_duplicates
from trainers.data.batches import part_of
from trainers.inputs import Inputs
from trainers.runs.run import Run
from trainers.subsets.subset import Subset, quotas

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The chosen rows among the train rows of some inputs."""

    numbers: np.ndarray  # row numbers int [K], ascending
    reasons: tuple[str, ...]  # reason of each row
    near: tuple[NearRow, ...]  # near-duplicates that were left out


def with_subset(inputs: Inputs, run: Run, facts: TrainFacts | None = None) -> Inputs:
    """Returns the inputs with the train rows that the config's subset chooses; all other splits are as they were.

    `facts` about these rows are those of another choice among them, with the same seed.
    """
    subset = inputs.config.subset
    if subset.is_whole:
        return inputs
    with run.phase("subset"):
        selection = select(inputs, run, subset, facts=facts)
    log.info(
        "subset: %d of %d train rows by %s, %d near-duplicates left out",
        len(selection.numbers), len(inputs.train), subset.tag, len(selection.near),
    )  # fmt: skip
    data = inputs.data
    splits = {**data.splits, "train": part_of(inputs.train, selection.numbers)}
    table = data.tables["train"]
    part = table.part(selection.numbers.tolist()) if inputs.calibration is None else table
    return replace(inputs, data=replace(data, splits=splits, tables={**data.tables, "train": part}))


def select(
    inputs: Inputs, run: Run, subset: Subset, without: Collection[int] = (), facts: TrainFacts | None = None
) -> Selection:
    """Chooses among the train rows, except the numbers `without`. Raises InputError for fewer rows than labels."""
    train = inputs.train
    facts = facts or TrainFacts(inputs, run, subset.seed)
    classes = inputs.config.head.classes(train.labels)
    groups = np.zeros(len(train), int) if classes is None else classes
    allowed = np.ones(len(train), bool)
    allowed[list(without)] = False
    near: list[NearRow] = []
    if subset.near:
        equal: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(allowed).tolist():
            equal.setdefault(train.labels[row].tobytes(), []).append(row)
        for rows in equal.values():
            near += near_duplicates(facts.states, np.array(rows), subset.near)
        allowed[[one.row for one in near]] = False
    present = np.unique(groups[allowed]).tolist()
    members = [np.flatnonzero(allowed & (groups == group)) for group in present]
    sizes, available = [int((groups == group).sum()) for group in present], [len(rows) for rows in members]
    counts = quotas(sizes, available, max(1, round(subset.share * len(train))), subset.balance)
    chosen = [subset.choose(facts, rows, count) for rows, count in zip(members, counts, strict=True)]
    reasons = {int(row): why for one in chosen for row, why in zip(one.numbers, one.reasons, strict=True)}
    numbers = sorted(reasons)
    return Selection(np.array(numbers, int), tuple(reasons[row] for row in numbers), tuple(near))
