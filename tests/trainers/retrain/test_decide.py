"""Which action a retraining chooses, and what history says that it costs."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import pytest

from adapters.specs import Bias, Classification, Lora, Probe
from tests.grafts import manifest
from trainers.config import Plan, TrainConfig
from trainers.config.retrain import Retrain
from trainers.retrain.decide import decide, from_history, line_through
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


def test_attention_is_never_fitted_to_cached_means_and_extra_methods_do_not_stand_in_the_way():
    config = TrainConfig(head=Classification(pooling="attention"), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Lora()), diagnosis(1, 100)).action == "warm"
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).action == "scratch"
    config = TrainConfig(extra=(Bias(),), plan=Plan("auto"))
    assert decide(config, FINGER, FINGER, manifest(Probe()), diagnosis(1, 100)).config.methods == (Probe(),)


def test_history_predicts_by_rows():
    class Told:
        def __init__(self, action, seconds, rows):
            self.detail = MappingProxyType({"action": action, "cpu_seconds": seconds, "train_rows": rows})

    runs = [Told("head", 10.0, 100), Told("warm", 90.0, 100), Told("head", 30.0, 100), Told("head", None, 100)]
    found = from_history(runs, "head", 50)  # type: ignore[arg-type]
    assert found is not None
    assert found.cpu_seconds == pytest.approx(0.2 * 50)
    assert from_history(runs, "scratch", 50) is None  # type: ignore[arg-type]


def test_history_holds_the_whole_verb_and_its_constant_part():
    def run(rows, training, verb=None):
        detail = {"action": "head", "cpu_seconds": training, "train_rows": rows}
        return SimpleNamespace(detail=detail | ({} if verb is None else {"verb_cpu_seconds": verb}))

    runs = [run(1000, 4.0, 14.0), run(2000, 8.0, 18.0), run(3000, 12.0, 22.0)]
    found = from_history(runs, "head", 2500)  # type: ignore[arg-type]
    assert found is not None
    assert found.cpu_seconds == pytest.approx(10 + 0.004 * 2500)
    assert line_through([(1000, 14.0), (1000, 16.0)]) == (0.0, pytest.approx(0.015)), "nothing tells the constant"
    assert line_through([(1000, 20.0), (2000, 10.0)]) == (pytest.approx(15.0), 0.0), "more rows are not cheaper"
    steep = line_through([(1000, 5.0), (2000, 20.0)])
    assert steep == (pytest.approx(1.25), pytest.approx(0.0075)), "the slope is not more than seconds by rows"
    before = [run(rows, rows * 0.3) for rows in (1000, 2000, 3000, 4000, 5000)]
    found = from_history([*runs, *runs[:2], *before], "head", 2500)  # type: ignore[arg-type]
    assert found is not None
    assert found.cpu_seconds == pytest.approx(10 + 0.004 * 2500), "the newest five"
    assert found.source == "5 earlier runs of kind head"
    found = from_history([run(100, 10.0)], "head", 50)  # type: ignore[arg-type]
    assert found is not None
    assert found.cpu_seconds == pytest.approx(5.0), "a former version recorded the training alone"
