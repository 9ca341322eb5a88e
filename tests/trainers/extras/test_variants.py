"""A cheaper precision is a variant of a graft only where it was scored and loses next to nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

import topgraft
from adapters.artefact.manifest import identity
from backbone.storage import load_backbone
from tests.command import call
from tests.tiny import write_config
from trainers.config.load import load_config
from trainers.extras import variants
from trainers.scoring.metrics import gather
from trainers.train import train


@pytest.fixture
def script(tiny_path, tmp_path):
    return write_config(tmp_path / "config.py", tiny_path, tmp_path, adapter="Probe()")


def test_it_is_scored_and_recorded(script, tiny_path, tmp_path):
    from trainers.data.examples import load_data

    config = load_config(str(script), ("validate=bfloat16", "data.dev_fraction=0.3"))
    result = train(config, tmp_path / "run")
    graft = topgraft.load(result.graft)
    lower = replace(graft, backbone=load_backbone(tiny_path, dtype="bfloat16"))
    dev = load_data(config.data, config.head, graft.backbone).splits["dev"]
    wanted = gather(graft.model, lower.logits_of_rows(dev.rows), dev.labels).compute()
    assert result.metrics["dev_bfloat16"] == graft.manifest.training.metrics["dev_bfloat16"] == wanted
    kept = wanted["accuracy"] >= result.metrics["dev"]["accuracy"] - variants.MAX_LOST
    assert graft.manifest.variants == (("bfloat16", "float32") if kept else ("float32",))
    without = identity(replace(graft.manifest, variants=("float32",)))
    assert (identity(graft.manifest) != without) == kept, "what may be served is part of what a graft is"


def test_one_that_loses_is_none(script, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(variants, "MAX_LOST", -2.0)  # no accuracy gains that much
    result = train(load_config(str(script), ("validate=bfloat16",)), tmp_path / "run")
    assert topgraft.load(result.graft).manifest.variants == ("float32",)
    assert "not a variant" in caplog.text


def test_it_needs_development_rows(script, capsys):
    options = ("--set", "validate=bfloat16", "--set", "data.dev_fraction=0")
    status, _, err = call("train", script, "--workdir", "run", *options, capsys=capsys)
    assert (status, "set data.dev, or data.dev_fraction" in err) == (2, True), err
