"""The verb `precision`, the choice among measured precisions, and the proposal of `train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.graft import load_graft
from backbone.precisions.record import Measured, choice_of, record
from tests.command import call
from tests.home import linked
from tests.tiny import write_config
from trainers import precision
from trainers.config.load import load_config
from trainers.inputs import prepare
from trainers.pricing import precisions
from trainers.pricing.precisions import choose
from trainers.runs.run import Run
from trainers.train import train


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
    return tmp_path / "home"


@pytest.fixture
def script(tiny_path, tmp_path):
    return write_config(tmp_path / "config.py", tiny_path, tmp_path, adapter="Probe()")


def of(tag: str, speed: float, cosine: float, lost: float | None = None, noise: float | None = None) -> Measured:
    return Measured(tag, speed, 1, cosine, None if lost is None else 0.9 - lost, lost, noise)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ((), "float32"),
        ((of("bfloat16", 1.19, 1.0),), "float32"),
        ((of("bfloat16", 1.2, 0.9999), of("int8", 3.0, 0.99)), "bfloat16"),
        ((of("bfloat16", 2.0, 0.99998), of("int8", 3.0, 0.99, 0.001, 0.003)), "int8"),
        ((of("bfloat16", 2.0, 0.99998), of("int8", 3.0, 0.99, 0.001, 0.0041)), "bfloat16"),
        ((of("bfloat16", 2.0, 0.99998), of("int8", 3.0, 0.99, 0.006, 0.0)), "bfloat16"),
        ((of("bfloat16", 2.0, 0.9998),), "float32"),
        ((of("int8", 2.0, 0.99995), of("bfloat16", 1.9, 0.99998)), "int8"),
    ],
)
def test_the_fastest_that_keeps_the_score_is_chosen(measured, expected):
    assert choose(measured)[0] == expected


def test_the_verb_measures_and_records(tiny_path, tiny, script, capsys):
    words = ("precision", tiny_path, "--data", script, "--set", "data.dev_fraction=0.1")
    status, out, err = call(*words, "--json", capsys=capsys)
    report = json.loads(out.splitlines()[-1])
    assert (status, report["recorded"], report["precision"]) == (0, False, "float32"), err
    assert [one["precision"] for one in report["measured"]] == ["bfloat16", "int4", "int8"]
    assert all(one["speed"] > 0 and 0.9 < one["cosine"] < 1 for one in report["measured"])
    worst = {tag: max(e["error"] for e in report["errors"] if e["precision"] == tag) for tag in ("int4", "int8")}
    assert 0 < worst["int8"] < 0.02 < worst["int4"] < 0.15
    sites = {e["site"] for e in report["errors"] if e["precision"] == "int4"}
    assert {"embeddings.token", "blocks.2.mlp.down.kernel"} <= sites
    assert choice_of(tiny.base_id) is None, "nothing was chosen"
    status, out, err = call("precision", tiny_path, "--choose", "int9", capsys=capsys)
    assert (status, "'int9' is unknown" in err) == (2, True)


def test_a_large_trunk_that_nothing_rests_on_gets_one(script, tiny, tmp_path, monkeypatch):
    inputs = prepare(load_config(str(script)), Run(tmp_path / "a"))
    assert precision.settle(inputs) is inputs.backbone, "a small trunk is left alone"
    monkeypatch.setattr(precision, "MIN_PARAMETERS", 1)
    monkeypatch.setattr(precisions, "MIN_SPEED", 0.0)  # whatever this machine is good at
    monkeypatch.setattr(precisions, "MIN_COSINE", 0.999)
    trunk = precision.settle(inputs)
    choice = choice_of(tiny.base_id)
    assert (trunk.precision, choice.precision, len(choice.measured)) == ("bfloat16", "bfloat16", 2)
    result = train(load_config(str(script)), tmp_path / "run", propose=True)
    assert load_graft(result.graft).backbone.precision == "bfloat16", "recorded, so nothing is measured again"


def test_a_trunk_in_use_or_chosen_is_left_alone(script, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "MIN_PARAMETERS", 1)
    monkeypatch.setattr(precisions, "MIN_SPEED", 0.0)
    named = prepare(load_config(str(script), ("precision=float32",)), Run(tmp_path / "a"))
    assert precision.settle(named) is named.backbone
    train(load_config(str(script)), tmp_path / "run")  # its states are cached
    inputs = prepare(load_config(str(script)), Run(tmp_path / "b"))
    assert precision.settle(inputs) is inputs.backbone
    assert choice_of(tiny.base_id) is None
    record(tiny.base_id, "int8", "by hand")
    recorded = prepare(load_config(str(script)), Run(tmp_path / "c"))
    assert precision.settle(recorded) is recorded.backbone
    assert recorded.backbone.precision == "int8"
