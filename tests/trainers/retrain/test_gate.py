"""The gate of a retraining, by the intervals that it computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapters.graft import Graft
from adapters.heads.head import UNLIKELY
from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from backbone.network.encoder import Network
from metering.energy import Joules
from metering.window import Cost
from tests.grafts import nonzero
from tests.tiny import SPEC
from trainers.config import Target
from trainers.config.retrain import Bound, Gate
from trainers.data.batches import Examples
from trainers.retrain.gate import PairedLogits, in_labels, judge, majority_logits

LABELS = ("a", "b", "c")


def sides(candidate: list[int], champion: list[int] | None, truth: list[int]) -> PairedLogits:
    """Logits of both sides that answer as told."""
    model = GraftModel(Network(SPEC), (Probe(),), Classification(), LABELS)
    examples = Examples([np.zeros(5, np.int32)] * len(truth), np.array(truth, np.int32), (8, 16, 32, 64))
    one = np.eye(3, dtype=np.float32)
    return PairedLogits(model, examples, one[candidate], None if champion is None else one[champion])


def asked(gate: Gate, both: PairedLogits, *, champion: int | None = 1, old=None, target=None, train=None, predict=None):
    return judge(
        gate,
        target or Target(),
        "accuracy",
        both,
        champion=champion,
        split="gate",
        old=old,
        train=train,
        peak_bytes=lambda: None if predict is None else predict.peak_bytes,
        latency_ms=lambda: 5.0,
    )


TRUTH = [i % 3 for i in range(300)]
WORSE = [(t + 1) % 3 if i < 30 else t for i, t in enumerate(TRUTH)]  # accuracy 0.9


def test_the_gate_against_a_champion():
    gate = Gate(tolerance=0.02, min_rows=50)
    assert asked(gate, sides(TRUTH, TRUTH, TRUTH)).verdict == "PASS"
    assert asked(gate, sides(TRUTH, WORSE, TRUTH)).verdict == "PASS"
    report = asked(gate, sides(WORSE, TRUTH, TRUTH))
    assert report.verdict == "FAIL"
    check = report.checks[0]
    assert check.value == pytest.approx(-0.1)
    # 30 of 300 paired losses: standard error sqrt(0.1 * 0.9 / 300) = 0.0173; 90 % lies within 1.645 of them
    assert check.interval is not None
    assert check.interval[0] == pytest.approx(-0.1 - 1.645 * 0.0173, abs=0.004)
    assert check.interval[1] == pytest.approx(-0.1 + 1.645 * 0.0173, abs=0.004)
    assert asked(replace(gate, tolerance=0.1), sides(WORSE, TRUTH, TRUTH)).verdict == "NO_EVIDENCE"
    assert asked(replace(gate, tolerance=0.2), sides(WORSE, TRUTH, TRUTH)).verdict == "PASS"
    assert asked(replace(gate, min_rows=301), sides(TRUTH, TRUTH, TRUTH)).verdict == "NO_EVIDENCE"


def test_forgetting_is_judged_on_the_rows_that_the_champion_knew():
    old = np.arange(300) < 60
    better_elsewhere = [t if i >= 60 else w for i, (t, w) in enumerate(zip(TRUTH, WORSE, strict=True))]
    champion = [t if i < 60 else (t + 1) % 3 for i, t in enumerate(TRUTH)]
    both = sides(better_elsewhere, champion, TRUTH)
    report = asked(Gate(min_rows=50), both, old=old)
    assert report.verdict == "FAIL"
    assert [c.verdict for c in report.checks] == ["PASS", "FAIL"], "better on the whole, worse on what was known"
    assert report.rows["old rows"] == 60
    assert asked(Gate(min_rows=61), both, old=old).checks[1].verdict == "NO_EVIDENCE"


def test_bounds_by_slice():
    bounds = (Bound(slices="label *", at_least=0.85), Bound(metric="macro_f1", at_least=0.95))
    report = asked(Gate(bounds=bounds, tolerance=1), sides(WORSE, TRUTH, TRUTH))
    assert {c.name: c.verdict for c in report.checks[1:]} == {
        "accuracy, label a": "PASS",
        "accuracy, label b": "PASS",
        "accuracy, label c": "PASS",
        "macro_f1, all rows": "FAIL",
    }
    nothing = asked(Gate(bounds=(Bound(slices="label z", at_least=0.1),)), sides(TRUTH, TRUTH, TRUTH))
    assert nothing.verdict == "NO_EVIDENCE"
    lost = asked(Gate(bounds=(Bound(slices="label a", max_drop=0.01),), tolerance=1), sides(WORSE, TRUTH, TRUTH))
    assert lost.checks[1].verdict == "FAIL"


def test_a_failure_outweighs_what_is_not_known():
    bounds = (Bound(slices="label z", at_least=0.1), Bound(at_least=0.95))
    report = asked(Gate(bounds=bounds, tolerance=1), sides(WORSE, WORSE, TRUTH))
    assert [check.verdict for check in report.checks] == ["PASS", "NO_EVIDENCE", "FAIL"]
    assert report.verdict == "FAIL"


def test_a_drop_needs_a_champion():
    """The first version is compared with the majority label only where the gate asks that it beats it."""
    gate = Gate(first="bounds", bounds=(Bound(at_least=0.5, max_drop=0.01),))
    report = asked(gate, sides(WORSE, TRUTH, TRUTH), champion=None)
    assert [(check.name, check.verdict) for check in report.checks] == [("accuracy, all rows", "PASS")]


def test_logits_in_another_order_of_labels(tiny):
    """A champion that knows two of three labels, in another order."""
    model = GraftModel(tiny.network, (), Classification(), ("c", "a"))
    graft = Graft(model, nonzero(model), tiny, 16)
    rows = [np.array([2, 7, 9, 3], np.int32), np.array([2, 11, 3], np.int32)]
    own = graft.logits_of_rows(rows)
    found = in_labels(own, model.labels, LABELS)
    np.testing.assert_array_equal(found[:, [2, 0]], own)
    assert (found[:, 1] < own.min() - 100).all(), "what it does not know it never answers"


def test_the_first_version_has_a_rule():
    model = sides(TRUTH, None, TRUTH).model
    train = Examples([np.zeros(5, np.int32)] * 5, np.array([2, 2, 2, 0, 1], np.int32), (8,))
    constant = majority_logits(model, train, 300)
    assert set(constant.argmax(axis=-1)) == {2}
    assert constant.min() == np.float32(UNLIKELY)
    beats = asked(Gate(), sides(TRUTH, [2] * 300, TRUTH), champion=None)
    assert (beats.verdict, beats.checks[0].value) == ("PASS", pytest.approx(2 / 3))
    fixed = replace(sides(TRUTH, None, TRUTH), champion=constant)
    report = asked(Gate(), fixed, champion=None)
    assert report.champion_metrics.keys() == report.candidate.keys() - {"loss"}, "it has no probabilities"
    assert asked(Gate(), sides([2] * 300, [2] * 300, TRUTH), champion=None).verdict == "FAIL"
    bare = Gate(first="bounds")
    assert asked(bare, sides(TRUTH, None, TRUTH), champion=None).verdict == "NO_EVIDENCE", "nothing was asked"
    asks = asked(bare, sides(TRUTH, None, TRUTH), champion=None, target=Target(min_score=0.9))
    assert asks.verdict == "PASS"


def test_budgets_and_what_was_not_measured():
    both, gate = sides(TRUTH, TRUTH, TRUTH), Gate()
    modelled = Cost("train", cpu_seconds=10.0, peak_bytes=None, joules=Joules("modelled", 60.0))
    counted = Cost("train", cpu_seconds=10.0, peak_bytes=50_000_000, joules=Joules("measured_counter", 60.0))
    assert asked(gate, both, target=Target(max_joules=100), train=modelled).verdict == "NO_EVIDENCE"
    assert asked(gate, both, target=Target(max_joules=100), train=counted).verdict == "PASS"
    assert asked(gate, both, target=Target(max_joules=50), train=counted).verdict == "FAIL"
    fallback = Target(max_joules=1, max_cpu_seconds=20)
    assert asked(gate, both, target=fallback, train=modelled).verdict == "PASS", "no meter: CPU seconds decide"
    assert asked(gate, both, target=Target(max_cpu_seconds=20)).verdict == "NO_EVIDENCE", "adopted: never measured"
    assert asked(gate, both, target=Target(max_memory_mb=100), predict=counted).verdict == "PASS"
    assert asked(gate, both, target=Target(max_memory_mb=100), predict=modelled).verdict == "NO_EVIDENCE"
    assert asked(gate, both, target=Target(max_latency_ms=6)).verdict == "PASS"
    assert asked(gate, both, target=Target(max_latency_ms=4)).verdict == "FAIL"
