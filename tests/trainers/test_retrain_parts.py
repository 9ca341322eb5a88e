"""The parts of a retraining against formulas written by hand: changes, drift, decisions, the gate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.artefact.manifest import Manifest, Training
from adapters.effects import cohens_d, cohens_w
from adapters.graft import Graft
from adapters.heads.columns import OneLabel
from adapters.heads.head import UNLIKELY
from adapters.model import GraftModel
from adapters.specs import Bias, Classification, Lora, Probe, TokenTagging
from adapters.tagging import NO_TAG
from backbone.encoder import Network
from backbone.errors import InputError
from metering.energy import Joules
from metering.window import Cost
from tests.grafts import nonzero
from tests.tiny import SPEC
from trainers.config import Data, Plan, Target, TrainConfig
from trainers.config.retrain import Bound, Column, Gate, Retrain, Schema
from trainers.data.batches import Examples
from trainers.data.rows import LabelledRow
from trainers.fitting.cached_states import ComputedRows
from trainers.fitting.warm_start import Parent, grown
from trainers.retrain.decide import decide, from_history
from trainers.retrain.diagnose import MIN_ROWS, Diagnosis, label_and_length_drift
from trainers.retrain.fingerprint import Fingerprint
from trainers.retrain.fleet import retrain_all
from trainers.retrain.gate import PairedLogits, judge, majority_logits
from trainers.retrain.lineage import Changes
from trainers.retrain.outcome import Options
from trainers.retrain.rows import changes, hashed, load_rows, rows_file, save_rows
from trainers.retrain.schema import check

PAIRS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), max_size=12)


def split(pairs):
    return hashed({"train": [LabelledRow(text, (label,), "") for text, label in pairs]})[0]["train"]


@given(PAIRS, PAIRS)
def test_changes_are_the_least_edits_between_two_multisets(old, new):
    """By text: what is on both sides with other labels is relabelled, the rest added or removed."""
    expected = Counter()
    for text in "abcdef":
        before = Counter(label for t, label in old if t == text)
        after = Counter(label for t, label in new if t == text)
        gone, come = sum((before - after).values()), sum((after - before).values())
        expected["relabelled"] += min(gone, come)
        expected["removed"] += max(0, gone - come)
        expected["added"] += max(0, come - gone)
    found = changes(split(old), split(new))
    assert found == Changes(expected["added"], expected["removed"], expected["relabelled"])
    assert len(old) + found.added - found.removed == len(new)


def test_rows_are_kept_without_text_and_damage_counts_as_missing(tmp_path):
    table = [LabelledRow("a secret", ("x", "y"), ""), LabelledRow("another ☃", (), "")]
    rows, prints = hashed({"train": table, "dev": table[:1]})
    save_rows(tmp_path, rows, prints)
    again = load_rows(tmp_path, prints)
    assert again is not None
    assert again["train"].pairs == rows["train"].pairs
    assert again["train"].label_counts == {"x": 1, "y": 1}
    assert changes(again["train"], rows["train"]).total == 0
    path = rows_file(tmp_path, prints)
    assert b"secret" not in path.read_bytes()
    path.write_bytes(path.read_bytes()[:-30])
    assert load_rows(tmp_path, prints) is None
    assert load_rows(tmp_path, prints) is None


def test_drift_is_an_effect_size_with_a_least_count():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(5000, 3)), draw.normal(size=(5000, 3)) + 0.8
    assert cohens_d(a, b) == pytest.approx(0.8, abs=0.05)
    # p0 = mean of both; w = 2 sqrt(sum (p1 - p0)^2 / p0): disjoint distributions give 2
    assert cohens_w({"x": 1.0}, {"y": 1.0}) == pytest.approx(2.0)
    assert cohens_w({"x": 0.5, "y": 0.5}, {"x": 0.5, "y": 0.5}) == 0
    assert cohens_w({"x": 0.6, "y": 0.4}, {"x": 0.4, "y": 0.6}) == pytest.approx(2 * np.sqrt(2 * 0.1**2 / 0.5))
    old = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS)])
    few = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS + 8)])
    assert [d.effect for d in label_and_length_drift(old, few)] == [None, None], "no alarm on eight rows"
    many = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS)] + [(f"new {i:90}", "x") for i in range(100)])
    labels, lengths = label_and_length_drift(old, many)
    assert labels.notable
    assert lengths.notable


FINGER = Fingerprint("s", {"train": "t"}, "c", "g", "w", "p", 1, "j")


def manifest(method) -> Manifest:
    training = Training({}, {}, {}, {}, {}, {})
    return Manifest(1, "", "t", "w", "p", (method,), Classification(), ("a", "b"), 16, {}, (), {}, {}, training)


def diagnosis(changed: int, rows: int, added: tuple[str, ...] = ()) -> Diagnosis:
    return Diagnosis({"train": Changes(changed, 0, 0)}, {"train": rows}, added, (), ())


@pytest.mark.parametrize(
    ("changed", "added", "now", "method", "action"),
    [
        (5, (), FINGER, Lora(blocks="1:"), "head"),
        (10, (), FINGER, Lora(blocks="1:"), "head"),
        (11, (), FINGER, Lora(blocks="1:"), "warm"),
        (5, ("c",), FINGER, Lora(blocks="1:"), "warm"),
        (50, (), FINGER, Lora(blocks="1:"), "warm"),
        (51, (), FINGER, Lora(blocks="1:"), "scratch"),
        (50, ("c",), FINGER, Probe(), "head"),
        (51, (), FINGER, Probe(), "scratch"),
        (1, (), replace(FINGER, config="other"), Probe(), "scratch"),
        (1, (), replace(FINGER, numerics=2), Probe(), "scratch"),
        (1, (), replace(FINGER, graft="other", weights_id="other"), Probe(), "scratch"),
    ],
)
def test_the_cheapest_action_that_can_be_expected_to_do(changed, added, now, method, action):
    policy = Retrain(head_share=0.1, warm_share=0.5, warm_epochs=0.5)
    config = TrainConfig(plan=Plan("auto"), epochs=4, retrain=policy)
    found = decide(config, now, FINGER, manifest(method), diagnosis(changed, 100, added))
    assert found.action == action, found.reason
    if action == "scratch":
        assert found.config == config
    else:
        assert found.config.adapter == method, "the live version's own blocks"
    if action == "warm":
        assert found.config.epochs == 0.5
        assert [stage.blocks for stage in found.config.plan.stages] == ["-2:"]
    assert decide(config, now, None, None, diagnosis(1, 100)).action == "scratch"


def test_attention_is_never_fitted_to_cached_means_and_extra_methods_do_not_stand_in_the_way():
    config = TrainConfig(head=Classification(pooling="attention"), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Lora()), diagnosis(1, 100)).action == "warm"
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).action == "scratch"
    config = TrainConfig(extra=(Bias(),), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).config.methods == (Probe(),)


def test_a_start_keeps_what_attention_learnt(tiny):
    head = Classification(pooling="attention")
    old = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), head, ("a", "b"))
    new = replace(old, labels=("a", "b", "c"))
    rows = [np.arange(5, 9 + i % 3, dtype=np.int32) for i in range(12)]
    examples = Examples(rows, np.arange(12, dtype=np.int32) % 3, tiny.lengths)
    parent = Parent(replace(manifest(old.methods[0]), head=head), nonzero(old))
    found = grown(parent, new, TrainConfig(), tiny, examples, ComputedRows())
    np.testing.assert_array_equal(found["head"]["query"], parent.params["head"]["query"])
    np.testing.assert_array_equal(found["head"]["kernel"][:, :2], parent.params["head"]["kernel"])
    assert found["head"]["kernel"][:, 2].any()


def test_a_start_of_a_tagger_fits_new_tags_to_words(tiny):
    """Words, not rows, carry tags: the probe of the new one is fitted to the rows that hold it, word by word."""
    old = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), TokenTagging(), ("B-x", "O"))
    new = replace(old, labels=("B-x", "B-y", "O"))
    words, labels = [], np.full((12, 8), NO_TAG, np.int32)
    for i in range(12):
        row = np.array([2, 10, 11, 12, 3], np.int32)
        labels[i, 1:4] = 2
        if i % 2:
            row[2], labels[i, 2] = 40, 1  # token 40 is always B-y
        words.append(row)
    examples = Examples(words, labels, tiny.lengths)
    parent = Parent(replace(manifest(old.methods[0]), head=TokenTagging(), labels=old.labels), nonzero(old))
    tally = ComputedRows()
    params = grown(parent, new, TrainConfig(head=TokenTagging(), metric="entity_f1"), tiny, examples, tally)
    assert tally.rows == 12, "six rows that carry the new tag, and six others"
    np.testing.assert_array_equal(params["head"]["kernel"][:, [0, 2]], parent.params["head"]["kernel"])
    own = {**params, "head": {"kernel": params["head"]["kernel"][:, 1:2], "bias": params["head"]["bias"][1:2]}}
    score = Graft(replace(new, labels=("B-y",)), own, tiny, 16).logits_of_rows(words)[..., 0]
    assert score[labels == 1].min() > score[labels == 2].max(), "the fitted column tells B-y from other words"


@pytest.mark.parametrize("data", [Data(train=("x",), format="image_folder"), Data(train=("x", "y"), format="idx")])
def test_a_schema_of_columns_needs_columns(data):
    with pytest.raises(InputError, match=r"schema\.columns: data\.train holds images, which have no columns"):
        check(Schema(columns=(Column(),)), data, {}, OneLabel())


def test_a_schema_reads_lists_in_one_json_file(tmp_path):
    (tmp_path / "lists.json").write_text('{"train": [["some text", "x"]]}')
    data = Data(train=(f"{tmp_path / 'lists.json'}#train",), format="json_lists")
    check(Schema(columns=(Column(),)), data, {}, OneLabel())
    with pytest.raises(InputError, match="at least 100"):
        check(Schema(columns=(Column(min=100),)), data, {}, OneLabel())


def test_history_predicts_by_rows():
    class Told:
        def __init__(self, action, seconds, rows):
            self.detail = MappingProxyType({"action": action, "cpu_seconds": seconds, "train_rows": rows})

    runs = [Told("head", 10.0, 100), Told("warm", 90.0, 100), Told("head", 30.0, 100), Told("head", None, 100)]
    found = from_history(runs, "head", 50)  # type: ignore[arg-type]
    assert found is not None
    assert found.cpu_seconds == pytest.approx(0.2 * 50)
    assert from_history(runs, "scratch", 50) is None  # type: ignore[arg-type]


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
        costs={"train": train, "predict": predict},
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
    assert check.interval[0] == pytest.approx(-0.1 - 1.645 * 0.0173, abs=0.008)
    assert check.interval[1] == pytest.approx(-0.1 + 1.645 * 0.0173, abs=0.008)
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


def test_the_first_version_has_a_rule():
    model = sides(TRUTH, None, TRUTH).model
    train = Examples([np.zeros(5, np.int32)] * 5, np.array([2, 2, 2, 0, 1], np.int32), (8,))
    constant = majority_logits(model, train, 300)
    assert set(constant.argmax(axis=-1)) == {2}
    assert constant.min() == np.float32(UNLIKELY)
    beats = asked(Gate(), sides(TRUTH, [2] * 300, TRUTH), champion=None)
    assert (beats.verdict, beats.checks[0].value) == ("PASS", pytest.approx(2 / 3))
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate(confidence=1.0), "confidence"),
        (lambda: Gate(tolerance=-1), "tolerance"),
        (lambda: Bound(), "max_drop"),
        (lambda: Column(min=2.0, max=1.0), "min"),
        (lambda: Retrain(head_share=0.6, warm_share=0.5), "head_share"),
        (lambda: Retrain(warm_epochs=0), "warm_epochs"),
        (lambda: Options(lease_seconds=0), r"--lease: must be a finite number in \(0, inf\), got '0'"),
        (lambda: Options(max_price=float("nan")), "--max-price: must be a finite number"),
        (lambda: retrain_all([], executor="processes", workers=0), "--workers: must be at least 1"),
        (lambda: Target(max_latency_ms=-1), "max_latency_ms"),
    ],
)
def test_specs_validate_themselves(make, message):
    with pytest.raises(InputError, match=message):
        make()
