"""Decisions about searches, on both databases: written once, required where a config says so, kept by former tables."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

import topgraft
from backbone.errors import InputError
from registry.database import open_registry
from registry.decisions import decide, decisions, missing_decision
from registry.tables import decisions as table
from registry.tables import precisions, schema
from registry.transfer import bring_in, export, read
from tests.grafts import EMPTY, make

FACTS = {"score": 0.9, "against": ""}


def decided(registry, search: str = "sha256:1", **fields):
    values = {
        "search": search, "choice": "aaaa", "settings": {"adapter.rank": 2, "epochs": 1.0}, "facts": FACTS,
        "actor": "Ada", "reason": "small enough",
    }  # fmt: skip
    return decide(registry, "task", **values | fields)


def test_a_decision_is_read_back(registry):
    first, second = decided(registry), decided(registry, "sha256:2", choice="bbbb", reason="better")
    assert decisions(registry, "task") == [first, second]
    assert (first.number, second.number, first.actor, second.choice) == (1, 2, "Ada", "bbbb")
    assert decisions(registry, "other") == []


def test_a_search_is_decided_once(registry):
    decided(registry)
    with pytest.raises(InputError, match=r"decided before: Ada chose aaaa \(small enough\)"):
        decided(registry, choice="bbbb")
    assert len(decisions(registry, "task")) == 1


def test_the_last_decision_counts(registry):
    config = {"adapter": {"rank": 2}, "epochs": 1.0}
    assert "nobody has decided about task" in missing_decision(registry, "task", config)
    decided(registry)
    assert missing_decision(registry, "task", config) == ""
    assert "Ada chose epochs=1.0 (small enough)" in missing_decision(registry, "task", config | {"epochs": 2.0})
    assert missing_decision(registry, "task", config | {"epochs": 2.0}, lasting=True) == ""
    decided(registry, "sha256:2", settings={"adapter.rank": 4})
    assert "adapter.rank=4" in missing_decision(registry, "task", config, lasting=True)


def test_former_tables_have_no_decisions_until_the_first_write(url, registry):
    with registry.database.engine.begin() as connection:
        table.drop(connection)
        precisions.drop(connection)
        connection.execute(schema.update().values(version=2))
    with contextlib.closing(open_registry(url, create=False)) as former:
        assert decisions(former, "task") == []
        assert former.change().position == 0
        assert decided(former).number == 1
        assert len(decisions(former, "task")) == 1


def test_an_export_holds_them(registry, tmp_path):
    decided(registry)
    assert export(registry, tmp_path / "all.jsonl")["decisions"] == 1
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/new.db")) as other:
        bring_in(other, read(tmp_path / "all.jsonl"))
        assert decisions(other, "task") == decisions(registry, "task")


def test_a_promotion_by_hand_needs_the_decision_that_its_config_requires(url, registry, tiny, tmp_path, capsys):
    config = {"retrain": {"search": "decided"}, "adapter": {"method": "lora", "rank": 2}}
    make(tmp_path / "graft", tiny, training=replace(EMPTY, config=config))
    store = ["--registry", url, "--store", str(tmp_path / "store")]
    assert topgraft.main(["registry", "publish", str(tmp_path / "graft"), "--task", "task", *store]) == 0
    promote = ["registry", "promote", "task", "1", "--reason", "x", *store]
    assert topgraft.main(promote) == 12
    assert "nobody has decided about task" in capsys.readouterr().err
    decided(registry, settings={"adapter.rank": 4})
    assert topgraft.main(promote) == 12
    decided(registry, "sha256:2")
    assert topgraft.main(promote) == 0
