"""Batches: every row once, in its own bucket, and from any place on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainers.training import examples
from trainers.data.batches import batches
from trainers.data.order import Order


def test_an_epoch_holds_every_row_once_in_its_own_bucket():
    data = examples()
    order = Order(data.buckets, batch_size=8, seed=4)
    plan = order.epoch(0)
    assert sorted(np.concatenate([rows for _, rows in plan])) == list(range(50))
    assert len(plan) == order.ends[0] == len(order.epoch(1))
    for bucket, rows in plan:
        assert (data.buckets[rows] == bucket).all()
        assert len(rows) <= 8
    assert [r.tolist() for _, r in plan] == [r.tolist() for _, r in order.epoch(0)], "a function of seed and epoch"
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in order.epoch(1)]
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in Order(data.buckets, 8, seed=5).epoch(0)]


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_can_be_entered_anywhere(threads):
    data = examples()
    order = Order(data.buckets, batch_size=8, seed=4)
    whole = list(batches(data, order, 2, 0, threads))
    tail = list(batches(data, order, 2, 3, threads))
    assert len(whole) == order.ends[0]
    for expected, found in zip(whole[3:], tail, strict=True):
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])
    for batch, (bucket, rows) in zip(whole, order.epoch(2), strict=True):
        assert batch["ids"].shape == batch["mask"].shape == (8, bucket)
        assert batch["weights"].sum() == len(rows)
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(batch["ids"][i][batch["mask"][i]], data.rows[row])
            assert batch["labels"][i] == data.labels[row]
