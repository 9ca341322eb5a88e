"""A retraining runs in the precision that the registry records for its trunk, and nothing else is let in."""

from __future__ import annotations

import contextlib

from adapters.specs import Lora
from backbone.precisions.precision import precision_named
from backbone.precisions.record import choice_of, record, record_file
from backbone.storage import Backbone
from registry.precisions import choose, chosen
from registry.verbs import whoami
from tests.grafts import make
from tests.trainers.retrain.place import TABLE, Place
from trainers.parent import parent


def trunks(place: Place) -> list[str]:
    """The identity of the trunk of each version."""
    return [version.weights_id for version in reversed(place.registry.versions("tiny"))]


def in_precision(tiny: Backbone, tag: str) -> str:
    return precision_named(tag).weights_id(tiny.base_id)


def test_the_registry_decides_and_another_choice_is_another_trunk(place, tiny, caplog):
    record(tiny.base_id, "bfloat16", "chosen by hand")
    assert place.run()["action"] == "scratch"
    with contextlib.closing(place.registry) as registry:
        adopted = chosen(registry)[tiny.base_id]
        assert (adopted.precision, adopted.number, adopted.reason) == ("bfloat16", 1, "chosen by hand")
        assert adopted.actor.startswith(whoami().partition("@")[2]), "the machine that retrained first"
    assert not choice_of(tiny.base_id).registry, "made here"
    record(tiny.base_id, "int8", "chosen by hand, elsewhere")
    assert place.run()["action"] == "nothing", "what this machine records counts no more"
    assert "bfloat16, as the registry records it; this machine: int8" in caplog.text
    named = place.run("precision=int8")
    assert (named["exit"], "the registry records bfloat16 for this trunk" in named["reason"]) == (2, True)
    with contextlib.closing(place.registry) as registry:
        choose(registry, tiny.base_id, "float32", actor="Ada", reason="back to the beginning")
    record_file(tiny.base_id).unlink()
    again = place.run()
    assert (again["action"], again["live"]) == ("scratch", 2)
    here = choice_of(tiny.base_id)
    assert (here.precision, len(here.registry)) == ("float32", 32), "taken over, for `train` on this machine"
    assert trunks(place) == [in_precision(tiny, "bfloat16"), tiny.base_id]
    assert place.run("precision=float32")["action"] == "nothing"


def test_without_a_choice_nothing_is_recorded(place, tiny):
    assert place.run()["live"] == 1
    with contextlib.closing(place.registry) as registry:
        assert chosen(registry) == {}
    assert trunks(place) == [tiny.base_id]


def test_a_retrained_parent_is_a_change_of_trunk(place, tiny, tmp_path):
    """A task on a parent is retrained once its config names the parent's successor, and not before."""
    parents = []
    for seed in (1, 2):
        make(tmp_path / f"graft{seed}", tiny, Lora(rank=2), seed=seed, noise=0.05)
        parents.append(parent(tmp_path / f"graft{seed}", tmp_path / f"trunk{seed}", backbone=str(tiny.path)))
    first, second = (f"backbone={trunk.path}" for trunk in parents)
    assert place.run(first)["action"] == "scratch"
    assert place.run(first)["action"] == "nothing"
    assert place.run(second)["action"] == "scratch"
    assert place.run(second)["action"] == "nothing"


def test_an_adapter_of_several_tasks_is_retrained_by_its_own_config(place):
    table = [(text, f"{'even' if number % 2 else 'odd'}/{label}") for number, (text, label) in enumerate(TABLE)]
    place.data(table[:200])
    settings = ("head.kind=tasks", "data.test=")
    first = place.run(*settings)
    assert (first["exit"], first["action"], first["verdict"]) == (0, "scratch", "PASS")
    assert place.run(*settings)["action"] == "nothing"
    place.data(table)
    second = place.run(*settings)
    assert second["action"] in ("head", "warm", "scratch")
    assert second["verdict"] == "PASS", second["reason"]
