"""A new default of the stages retrains nothing, and leaves every task the meaning that it had."""

from __future__ import annotations

import pytest

from tests.tiny import rows, write_config
from tests.trainers.retrain.place import TABLE, Place
from trainers.config.load import load_config
from trainers.retrain.fingerprint import take

FORMER = "plan.stages=all"  # what a former version read where the config names no stages: their digests are equal


@pytest.fixture
def place(tmp_path, tiny_path, capsys) -> Place:
    """A place whose config leaves its stages open, with an adapter that a climb would try."""
    place = Place(tmp_path, tiny_path, capsys)
    write_config(place.config, tiny_path, tmp_path, adapter="Lora(rank=2)", plan="Plan()", epochs="1")
    return place


def test_what_a_former_version_made_is_not_made_anew(place):
    first = place.run(FORMER)
    assert (first["action"], first["live"]) == ("scratch", 1)
    assert place.run()["action"] == "nothing", "the config leaves open what it left open then"
    assert place.run("plan.stages=auto", options=("--dry-run",))["action"] == "scratch", "a climb that is named is new"
    place.data(TABLE + rows(5, seed=78))
    again = place.run()
    assert (again["action"], again["live"]) == ("head", 2), again["reason"]
    settings = [place.registry.version("tiny", number).lineage["fingerprint"]["config"] for number in (1, 2)]
    assert settings[0] == settings[1], "the task keeps its meaning"
    assert place.run("epochs=2", options=("--dry-run",))["action"] == "scratch"


def test_a_new_task_climbs(place):
    first = place.run()
    assert (first["action"], first["live"]) == ("scratch", 1)
    assert place.run()["action"] == place.run("plan.stages=auto")["action"] == "nothing"
    assert place.run(FORMER, options=("--dry-run",))["action"] == "scratch"


def test_the_head_of_a_probe_is_chosen_anew_as_the_climb_chose_it(place):
    for number, table in enumerate((TABLE, TABLE + rows(5, seed=78)), 1):
        place.data(table)
        result = place.run("plan.highest=probe")
        assert (result["action"], result["live"]) == (("scratch", "head")[number - 1], number), result["reason"]
        metrics = place.registry.version("tiny", number).metrics
        assert "out_of_fold" in metrics, "heads are compared on rows that they have not seen"
    assert 0 < result["rows_computed"] <= 5


def test_a_verdict_on_a_former_candidate_stands(place):
    config = load_config(place.config)
    then, now = (take(load_config(place.config, (f"plan.stages={name}",)), None) for name in ("all", "auto"))
    assert take(config, None).fingerprint == now.fingerprint
    for scheme in (1, 2):
        judged = {(scheme, then.in_scheme(scheme).key)}
        assert take(config, None, judged).fingerprint == then.fingerprint
        assert take(config, now.fingerprint, judged).fingerprint == now.fingerprint, "the live version comes first"
        both = judged | {(scheme, now.in_scheme(scheme).key)}
        assert take(config, None, both).fingerprint == now.fingerprint
    assert take(config, None, {(2, "another")}).fingerprint == now.fingerprint
