"""The precision of a fleet's trunks, on both databases: chosen, adopted, required of grafts, kept by former tables."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest

import topgraft
from backbone.errors import InputError
from backbone.precisions.record import CalibrationRows, Choice, Measured
from registry.database import open_registry
from registry.precisions import Figures, adopt, choose, chosen, figures_of, history, report
from registry.tables import precisions, schema
from registry.transfer import bring_in, export, read
from tests.grafts import make
from tests.registry.support import TOLD

BASE = "sha256:" + "0" * 64
MEASURED = (Measured("bfloat16", 1.9, 5, 0.99998), Measured("int8", 2.4, 3, 0.993, 0.91, 0.002, 0.001))
CALIBRATION = CalibrationRows("topics", 1000, "sha256:rows")
HERE = Choice(1, BASE, "int8", "2.40 times as fast as float32", MEASURED, CALIBRATION)


def test_the_last_choice_counts_and_all_are_kept(registry):
    assert chosen(registry) == {}
    first = choose(registry, BASE, "bfloat16", actor="Ada", reason="twice as fast")
    second = choose(registry, BASE, "int8", actor="Bo", reason="as good", figures=figures_of(HERE))
    assert (first.number, second.number) == (1, 2)
    assert chosen(registry) == {BASE: second}
    assert history(registry, BASE) == [first, second]
    assert second.figures == Figures(MEASURED, CALIBRATION, score=0.91, float32_score=0.912)
    with pytest.raises(InputError, match=r"^--choose: 'int9' is unknown"):
        choose(registry, BASE, "int9", actor="Ada", reason="x")


def test_scores_of_a_choice_without_any():
    assert figures_of(replace(HERE, precision="bfloat16")) == Figures(MEASURED, CALIBRATION, None, 0.912)
    assert figures_of(replace(HERE, precision="float32")).score == 0.912
    assert figures_of(replace(HERE, measured=MEASURED[:1])).float32_score is None


def test_a_machine_is_heard_where_nobody_chose(registry):
    adopted = adopt(registry, HERE, actor="machine")
    assert (adopted.precision, adopted.number, adopted.figures.score) == ("int8", 1, 0.91)
    assert adopt(registry, replace(HERE, precision="float32"), actor="another") == adopted
    assert len(history(registry, BASE)) == 1


def test_a_machine_is_not_heard_where_something_else_is_live(published, tiny):
    published.promote("task", 1, expected_generation=0, **TOLD)
    here = replace(HERE, weights_id=tiny.base_id)
    assert adopt(published, here, actor="machine") is None
    assert chosen(published) == {}
    assert adopt(published, HERE, actor="machine") is not None, "on another trunk"
    adopted = adopt(published, replace(here, precision="float32"), actor="machine")
    assert adopted is not None
    assert adopted.precision == "float32"


def test_former_tables_have_none_until_the_first_choice(url, registry, store, grafts):
    with registry.database.engine.begin() as connection:
        precisions.drop(connection)
        connection.execute(schema.update().values(version=3))
    with contextlib.closing(open_registry(url, create=False)) as former:
        assert (chosen(former), history(former, BASE), report(former).trunks) == ({}, [], ())
        assert former.publish("task", grafts[0], store).number == 1
        assert choose(former, BASE, "int8", actor="Ada", reason="x").number == 1
        assert chosen(former).keys() == {BASE}


def test_an_export_holds_them(registry, tmp_path):
    adopt(registry, HERE, actor="machine")
    assert export(registry, tmp_path / "all.jsonl")["precisions"] == 1
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/new.db")) as other:
        bring_in(other, read(tmp_path / "all.jsonl"))
        assert history(other, BASE) == history(registry, BASE)


def test_grafts_of_another_precision_are_refused_by_name(registry, store, grafts, tiny, tmp_path):
    registry.publish("task", grafts[0], store)
    registry.promote("task", 1, expected_generation=0, **TOLD)
    choose(registry, tiny.base_id, "bfloat16", actor="Ada", reason="twice as fast")
    refused = (
        r"^task: the graft is in float32, and not validated in bfloat16, which this registry records for the trunk "
        rf"{tiny.base_id[:19]}... \(Ada: twice as fast\); train it with --set precision=bfloat16"
    )
    with pytest.raises(InputError, match=refused):
        registry.publish("task", grafts[1], store)
    assert len(registry.versions("task")) == 1
    make(tmp_path / "validated", tiny, variants=("bfloat16",), seed=9)
    assert registry.publish("task", tmp_path / "validated", store).number == 2
    (trunk,) = report(registry).trunks
    assert (trunk.choices, trunk.others) == (1, ("task",))
    choose(registry, BASE, "int8", actor="Ada", reason="x")
    assert report(registry, tiny.base_id).trunks == (trunk,), "another trunk says nothing of this one"


def test_the_verb_shows_and_changes_it(url, tiny, tiny_path, grafts, tmp_path, capsys):
    def said(*words: object) -> tuple[int, str, str]:
        status = topgraft.main(["registry", *map(str, words), "--registry", url, "--store", str(tmp_path / "store")])
        return status, *capsys.readouterr()

    for number in (0, 1):
        assert said("publish", grafts[number], "--task", "task")[0] == 0
    assert "each machine's own record counts" in said("precision")[1]
    status, _, err = said("precision", tiny_path, "--choose", "int8")
    assert (status, "needs the backbone that it is about, and --reason" in err) == (2, True)
    words = ("precision", tiny_path, "--choose", "int8", "--reason", "measured twice", "--actor", "Ada", "--json")
    status, out, err = said(*words)
    assert status == 0, err
    (trunk,) = json.loads(out.splitlines()[-1])["trunks"]
    assert (trunk["choice"]["weights_id"], trunk["choice"]["precision"]) == (tiny.base_id, "int8")
    status, _, err = said("promote", "task", 2, "--reason", "x")
    assert (status, "which this registry records for the trunk" in err) == (2, True)
    assert said("precision", tiny_path, "--choose", "float32", "--reason", "back", "--actor", "Bo")[0] == 0
    assert said("promote", "task", 2, "--reason", "x")[0] == 0
    assert "float32  Bo: back" in said("precision")[1]
