"""The configs that are compared with PEFT read the rows that PEFT reads."""

from __future__ import annotations

import pytest

from benchmarks.peers.tasks import TAGS, TASKS
from benchmarks.peft_tasks import TASKS as COMPARED
from trainers.config.load import load_config
from trainers.data.rows import read_rows


@pytest.mark.parametrize("task", COMPARED)
def test_both_sides_read_the_same_rows(task, shared_data, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_DATA", str(shared_data))
    config = load_config(task)
    reading = config.head.column.reading
    assert (config.metric, config.optimizer.learning_rate) == COMPARED[task]
    peers = dict(zip(("train", "test"), TASKS[task](shared_data), strict=True))
    named = config.data.label_names or sorted({row.labels[0] for row in rows_of(config, "train")})
    for split, theirs in peers.items():
        ours = rows_of(config, split)
        assert len(ours) == len(theirs)
        for row, (text, label) in zip(ours, theirs, strict=True):
            if reading == "tags":
                assert (row.text.split(" "), list(row.labels)) == (text, [TAGS[task][i] for i in label])
            else:
                assert ((row.text, row.pair) if row.pair else row.text) == text
                assert (float(row.labels[0]) if reading == "number" else named.index(row.labels[0])) == label


def rows_of(config, split):
    return list(read_rows(config.data, split, config.head.column))
