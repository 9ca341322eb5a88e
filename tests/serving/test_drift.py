"""Drift of traffic: effect sizes by formula, silence before there are rows enough, windows that forget, threads."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from adapters.artefact.scope import Scope, reference_of
from adapters.effects import EMPTY, binomial_interval, stability_index, stability_noise
from serving.drift import MIN_ROWS, Drift, DriftReport

DRAW = np.random.default_rng(0)
LABELS = 4


def drawn(rows: int, longer: float = 1.0, beyond: float = 0.1, odd: bool = False) -> tuple:
    """Lengths, scores and labels of rows."""
    lengths = np.round(longer * DRAW.gamma(4, 5, rows)).astype(int)
    scores = DRAW.gamma(3, 1 / 3, rows) * beyond / 0.1
    labels = DRAW.choice(LABELS, rows, p=[0.1, 0.1, 0.1, 0.7] if odd else [0.4, 0.3, 0.2, 0.1])
    return lengths, scores, labels


def scope(rows: int = 1000) -> Scope:
    lengths, scores, labels = drawn(rows)
    one = np.ones((1, 1), np.float32)
    return Scope(3, one, one, one[0], one[0], 1.0, 1.0, 0.42, False, reference_of(lengths, scores, labels, LABELS))


def watched(drift: Drift, one: Scope, given: tuple, name: str = "task", content: str = "c") -> DriftReport:
    lengths, scores, labels = given
    drift.observe(name, content, one, lengths, scores, labels)
    return drift.reports({name: content})[name]


def test_the_index_is_the_formula_less_its_expectation():
    before, after = np.array([50, 30, 20]), np.array([20, 30, 150])
    p, q = ((c + EMPTY) / (c.sum() + 3 * EMPTY) for c in (before, after))
    plain = sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(before, after) == pytest.approx(plain - 2 * (1 / 100 + 1 / 200))
    assert stability_index(before, before) == 0
    shares = DRAW.dirichlet(np.ones(20) * 5)
    alike = [stability_index(*(DRAW.multinomial(n, shares) for n in (900, 600))) for _ in range(400)]
    assert np.mean(alike) < 0.02
    noise = stability_noise(*(DRAW.multinomial(n, shares) for n in (900, 600)))
    assert noise == pytest.approx(np.sqrt(38) * (1 / 900 + 1 / 600))
    assert np.quantile(alike, 0.99) < 4 * noise


def test_the_interval_covers_the_share():
    low, high = binomial_interval(30, 200, 1.96)
    wanted = scipy.stats.binomtest(30, 200).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
    assert binomial_interval(0, 0) == (0.0, 1.0)
    assert binomial_interval(0, 50)[0] == 0


def test_bins_hold_about_as_many_rows_each():
    reference = reference_of(np.arange(1000) % 50, DRAW.random(1000), np.zeros(1000, int), 2)
    assert reference.length_counts.tolist() == [100] * 10
    assert reference.score_counts.sum() == 1000
    assert reference.label_counts.tolist() == [1000, 0]
    same = reference_of(np.full(30, 7), np.ones(30), np.ones(30, int), 2)
    assert same.length_counts.tolist() == [30], "one length is one bin"


@pytest.mark.parametrize(
    ("changed", "kind"),
    [({"longer": 1.8}, "lengths"), ({"odd": True}, "labels"), ({"beyond": 0.2}, "scores")],
)
def test_what_drifts_is_told_and_nothing_else(changed, kind):
    drift, one = Drift(10), scope()
    calm = watched(drift, one, drawn(2000), "calm").effects()
    assert calm.keys() == {"lengths", "labels", "scores"}
    assert max(calm.values()) < 0.1
    told = watched(drift, one, drawn(2000, **changed), "moved").effects()
    assert told[kind] > 0.25
    assert max(value for name, value in told.items() if name != kind) < 0.1


def test_nothing_is_said_before_there_are_rows_enough():
    drift, one = Drift(10), scope()
    few = watched(drift, one, drawn(50, longer=3))
    assert (few.rows, few.effects(), few.out_of_scope) == (50, {}, None)
    assert watched(drift, one, drawn(MIN_ROWS - 51)).out_of_scope is None
    share = watched(drift, one, drawn(1)).out_of_scope
    assert share.low < share.value < share.high
    assert share.calibrated == 0.42
    rare = watched(Drift(10), scope(20), drawn(5000))
    assert rare.effects() == {}, "twenty development rows are no reference"
    assert watched(Drift(10), Scope(**vars(one) | {"reference": None}), drawn(500)).effects() == {}


def test_the_share_out_of_scope_is_that_of_the_window():
    one = scope()
    lengths, scores, labels = drawn(800)
    share = watched(Drift(10), one, (lengths, scores, labels)).out_of_scope
    assert share.value == (scores > 1).mean()
    assert share.low < 0.42 < share.high, "of the reference's own distribution"
    assert watched(Drift(10), one, drawn(800, beyond=0.2)).out_of_scope.low > 0.42


def test_a_window_forgets_and_a_version_begins_anew():
    drift, one = Drift(10, window=2000), scope()
    for _ in range(20):
        before = watched(drift, one, drawn(100, longer=1.8))
    assert before.lengths > 0.25
    for _ in range(20):
        after = watched(drift, one, drawn(100))
    assert 1000 <= after.rows <= 2000
    assert after.lengths < 0.1
    assert drift.reports({"task": "another"}) == {}, "the former version says nothing of the live one"
    assert watched(drift, one, drawn(5), content="another").rows == 5


def test_memory_is_bounded_by_tasks_not_by_traffic():
    drift, one = Drift(3, window=1000), scope()
    for name in "abcd":
        watched(drift, one, drawn(10), name)
    assert list(drift.reports(dict.fromkeys("abcd", "c"))) == ["b", "c", "d"]
    given = drawn(1000)
    tracemalloc.start()
    watched(drift, one, given, "d")
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        watched(drift, one, given, "d")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_threads_lose_no_row():
    drift, one, given = Drift(5, window=10**9), scope(), drawn(50)
    threads = [threading.Thread(target=lambda: [watched(drift, one, given) for _ in range(40)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drift.reports({"task": "c"})["task"].rows == 8 * 40 * 50
