"""Speeds beside peaks, and what counts as a loss."""

from __future__ import annotations

import pytest

from metering.libraries import ProductUse
from metering.speeds import Peak, Work, is_slower, joined, lost, speed_of

PEAKS = {"float32": Peak("float32", 100.0, 10.0)}
WORK = Work("p", "float32", flops=4e9, bytes=1e9, products=(ProductUse("Eigen", "f32[2,2]", 3),))


def test_a_speed_is_that_of_the_median_round():
    speed = speed_of(WORK, [0.2, 0.16, 0.24], PEAKS)
    assert (speed.ms, speed.best_ms, speed.gflops, speed.gb_per_second) == pytest.approx((200, 160, 20, 5))
    assert speed.spread == pytest.approx(0.4)
    assert speed.attainable_gflops == pytest.approx(40), "4 FLOP a byte at 10 GB/s"
    assert speed.libraries == {"Eigen": 3}


@pytest.mark.parametrize(
    ("before", "now", "is_lost"),
    [
        ([0.1, 0.1, 0.1], [0.119, 0.5, 0.5], True),  # 16 % of the speed
        ([0.1, 0.1, 0.1], [0.117, 0.5, 0.5], False),  # 14.5 %
        ([0.1, 0.1, 0.1], [0.05, 0.05, 0.05], False),
        ([0.1, 0.09, 0.11], [0.16, 0.16, 0.16], False),  # 37.5 % lost, 40 % allowed
        ([0.1, 0.09, 0.11], [0.17, 0.17, 0.17], True),  # 41 %
    ],
)
def test_a_loss_is_more_than_twice_the_spread_and_than_15_percent(before, now, is_lost):
    first, second = speed_of(WORK, before, PEAKS), speed_of(WORK, now, PEAKS)
    assert is_slower(first, second) == is_lost
    assert lost(first, second) == pytest.approx(1 - sorted(before)[1] / min(now))


def test_a_second_measurement_counts_where_it_is_faster():
    slow, fast = speed_of(WORK, [0.3, 0.3, 0.3], PEAKS), speed_of(WORK, [0.1, 0.1, 0.2], PEAKS)
    assert joined(slow, fast) == joined(fast, slow) == fast
