"""Which action a retraining chooses, and what history says that it costs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from adapters.specs import Bias, Classification, Lora, Probe
from tests.grafts import manifest
from trainers.config import Plan, TrainConfig
from trainers.config.retrain import Retrain
from trainers.retrain.decide import decide, from_history, scaled, states_kept
from trainers.retrain.diagnose import Diagnosis
from trainers.retrain.fingerprint import Fingerprint
from trainers.retrain.lineage import Changes

FINGER = Fingerprint("s", {"train": "t"}, "c", "g", "w", "p", 1, "j")


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


@pytest.mark.parametrize(
    ("action", "newest_first", "kept"),
    [
        ("scratch", ("warm", "scratch"), True),
        ("head", ("head", "warm"), True),
        ("head", ("adopt", "head"), True),
        ("head", ("warm", "head"), False),
        ("head", ("scratch",), False),
        ("head", (), False),
        ("warm", ("head", "warm", "scratch"), True),
        ("warm", ("head", "scratch", "warm"), False),
        ("warm", (), False),
    ],
)
def test_a_plan_pays_for_states_under_an_adapter_that_was_trained_since(action, newest_first, kept):
    assert states_kept(action, [SimpleNamespace(detail={"action": name}) for name in newest_first]) == kept


def test_attention_is_never_fitted_to_cached_means_and_extra_methods_do_not_stand_in_the_way():
    config = TrainConfig(head=Classification(pooling="attention"), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Lora()), diagnosis(1, 100)).action == "warm"
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).action == "scratch"
    config = TrainConfig(extra=(Bias(),), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).config.methods == (Probe(),)


def run_of(action, seconds, rows, changed=None, verb=None):
    detail = {"action": action, "cpu_seconds": seconds, "train_rows": rows, "changed_rows": changed}
    return SimpleNamespace(detail=detail | ({} if verb is None else {"verb_cpu_seconds": verb}))


def predicted(runs, action, rows, changed):
    price = from_history(runs, action, rows, changed)
    assert price is not None
    return price.cpu_seconds


def test_history_predicts_by_rows_and_by_changed_rows():
    runs = [run_of("head", 10.0, 1000, 50), run_of("warm", 90.0, 1000, 50), run_of("head", None, 1000, 50)]
    assert predicted(runs, "head", 1000, 50) == pytest.approx(10.0), "the same run costs the same"
    assert predicted(runs, "head", 2000, 50) == pytest.approx(10 * 2**0.2, abs=0.01)
    assert predicted(runs, "head", 1000, 200) == pytest.approx(10 * 4**0.2, abs=0.01)
    assert from_history(runs, "scratch", 1000, 50) is None


def test_history_learns_what_more_rows_cost():
    sizes = [(1000, 20), (4000, 20), (16000, 20), (64000, 20)]
    seconds = [rows**0.8 for rows, _ in sizes]
    assert scaled(sizes, seconds, (128000, 20)) == pytest.approx(128000**0.8, rel=0.15), "the rows tell the exponent"
    changed = [(1000, 20), (1000, 100), (1000, 500), (1000, 1000)]
    assert scaled(changed, [8.0] * 4, (1000, 1000)) == pytest.approx(8.0, rel=0.1), "no changed row costs anything"
    assert scaled(sizes, [20.0, 10.0, 5.0, 2.0], (16000, 20)) <= scaled(sizes, [20.0, 10.0, 5.0, 2.0], (64000, 20)), (
        "more rows are not cheaper"
    )
    steep = [1.0, 100.0, 10000.0, 1000000.0]
    ratio = scaled(sizes, steep, (32000, 20)) / scaled(sizes, steep, (16000, 20))
    assert ratio == pytest.approx(2.0), "twice the rows cost at most twice as much"


def test_history_holds_the_whole_verb_of_the_newest_runs():
    runs = [run_of("head", 4.0, 1000, 30, verb=14.0) for _ in range(5)]
    before = [run_of("head", 300.0, 1000, 30) for _ in range(5)]
    assert predicted([*runs, *before], "head", 1000, 30) == pytest.approx(14.0), "the newest five"
    former = run_of("head", 10.0, 1000)
    del former.detail["changed_rows"]
    assert predicted([former, *runs], "head", 1000, 30) == pytest.approx(14.0), "it counted no changed rows"
    assert predicted([former], "head", 1000, 500) == pytest.approx(10.0), "the training alone, there is nothing newer"
    assert from_history(runs, "head", 1000, 30).source == "5 earlier runs of kind head"
