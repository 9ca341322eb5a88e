"""A graft of a cheaper precision is validated in float32, where it was scored and loses next to nothing."""

from __future__ import annotations

import json

import pytest

import topgraft
from backbone.cache import VARIANT_FILE
from backbone.home import boundaries_folder
from backbone.precisions.record import record
from tests.command import call
from tests.home import linked
from tests.tiny import write_config
from trainers.config.load import load_config
from trainers.extras import variants
from trainers.scoring.metrics import gather
from trainers.train import train


@pytest.fixture
def script(tiny_path, tmp_path):
    return write_config(tmp_path / "config.py", tiny_path, tmp_path, adapter="Probe()")


def test_it_is_scored_and_recorded(script, tiny, tmp_path, monkeypatch):
    """The trunk has the recorded precision, with no word of it in the config."""
    from trainers.data.examples import load_data

    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
    record(tiny.base_id, "bfloat16", "by hand")
    config = load_config(str(script), ("data.dev_fraction=0.3",))
    result = train(config, tmp_path / "run")
    graft, plain = topgraft.load(result.graft), topgraft.load(result.graft, precision="float32")
    assert (graft.backbone.precision, graft.manifest.variants) == ("bfloat16", ("bfloat16", "float32"))
    dev = load_data(config.data, config.head, graft.backbone).splits["dev"]
    expected = gather(plain.model, plain.logits_of_rows(dev.rows[: variants.ROWS]), dev.labels[: variants.ROWS])
    assert result.metrics["dev_float32"] == pytest.approx(expected.compute(), rel=1e-6), "from cached states"
    cached = [json.loads(file.read_text())["weights_id"] for file in boundaries_folder().glob(f"*/{VARIANT_FILE}")]
    assert sorted(cached) == sorted({graft.backbone.weights_id, tiny.base_id}), "states of both, for the next run"


def test_one_that_loses_is_not_validated(script, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(variants, "MAX_LOST", -2.0)  # no accuracy gains that much
    result = train(load_config(str(script), ("precision=int8",)), tmp_path / "run")
    assert topgraft.load(result.graft).manifest.variants == ("int8",)
    assert "not validated there" in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("validate=bfloat16", "validate: no such field in TrainConfig; it is now precision"),
        ("compute_dtype=float32", "compute_dtype: no such field in TrainConfig; it is now precision"),
        ("precision=bfloat17", "'bfloat17' is unknown"),
    ],
)
def test_former_names_and_unknown_precisions_are_refused(setting, message, script, capsys):
    status, _, err = call("train", script, "--workdir", "run", "--set", setting, capsys=capsys)
    assert (status, message in err) == (2, True), err
