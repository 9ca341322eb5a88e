"""From a search to a person's decision to a retraining that requires it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.errors import InputError
from registry.decisions import decisions
from registry.place import Place
from tests.command import call
from tests.trainers.search.searches import config_of, write_space
from trainers.search.decide import decide
from trainers.search.result import read_result

GRIDS = "{'adapter.method': ('probe',), 'head.pooling': ('mean', 'first')},"
SETTINGS = ("--set", "data.dev_fraction=0.4", "--set", "plan.stages=all", "--set", "retrain.gate.min_rows=10")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    from tests.registry.postgres import empty_database

    return empty_database(request, tmp_path / "registry.db")


def test_nothing_is_retrained_or_promoted_before_a_person_has_decided(config, tmp_path, url, capsys):
    space, run = write_space(tmp_path / "space.py", GRIDS), tmp_path / "run"
    words = ("search", config, "--space", space, "--workdir", run, "--quiet", *SETTINGS)
    assert call(*words, capsys=capsys)[0] == 0
    result = read_result(run)
    other = next(one for one in result.candidates if one.id != result.recommended)
    place = ("--registry", url, "--store", tmp_path / "store")
    retrain = ("retrain", config, *place, *SETTINGS, "--set", "adapter.method=probe", "--set", "retrain.search=decided",
               "--quiet", "--json")  # fmt: skip
    status, out, _ = call(*retrain, capsys=capsys)
    assert status == 12
    assert "nobody has decided about tiny" in json.loads(out.splitlines()[-1])["reason"]

    decision = ("search", "decide", run, "--by", "Ada", "--why", "it reads the first token", "--registry", url)
    assert call(*decision, "--choose", "nothing", capsys=capsys)[0] == 2
    status, out, _ = call(*decision, "--choose", other.id[:5], "--json", capsys=capsys)
    assert status == 0
    made = json.loads(out.splitlines()[-1])
    assert (made["choice"], made["against"], made["recommended"]) == (other.id, other.reason, result.recommended)
    assert "decided before" in call(*decision, "--choose", result.recommended, capsys=capsys)[2]

    pooling = other.settings["head.pooling"]
    wrong = "mean" if pooling == "first" else "first"
    status, out, _ = call(*retrain, "--set", f"head.pooling={wrong}", capsys=capsys)
    assert status == 12
    assert f"Ada chose head.pooling={pooling}" in json.loads(out.splitlines()[-1])["reason"]
    status, out, _ = call(*retrain, "--set", f"head.pooling={pooling}", capsys=capsys)
    assert status == 0, out
    assert json.loads(out.splitlines()[-1])["promoted"]

    registry = Place(registry=url, store=str(tmp_path / "store")).open()
    (stored,) = decisions(registry, "tiny")
    registry.close()
    assert stored.settings == {"adapter.method": "probe", "head.pooling": pooling}
    assert stored.facts["against"] == other.reason
    assert stored.facts["rows"] == result.rows


def test_a_decision_about_rows_that_have_changed_is_refused(config, tmp_path, capsys):
    space, run = write_space(tmp_path / "space.py", GRIDS), tmp_path / "run"
    assert call("search", config, "--space", space, "--workdir", run, "--quiet", *SETTINGS, capsys=capsys)[0] == 0
    train = Path(config_of(config).data.train[0])
    train.write_text(train.read_text() + "ban bas,class0\n")
    place = Place(registry=f"sqlite:///{tmp_path}/registry.db", store=str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"rows of (train|dev) have changed since the search"):
        decide(str(run), read_result(run).recommended, by="Ada", why="best", place=place)
    assert not (tmp_path / "registry.db").exists()
