"""Two versions compared: a former name of a field, or a field that is newer, is no difference."""

from __future__ import annotations

from dataclasses import replace

from registry.place import Place
from registry.verbs import diff
from tests.grafts import EMPTY, make


def test_renamed_and_newer_fields_are_no_changes(tiny, tmp_path):
    bound = {"metric": "accuracy", "at_least": 0.0}
    former = {"seed": 0, "data": {"text": "text"}, "retrain": {"gate": {"bounds": [bound | {"most_lost": 0.05}]}}}
    present = {"seed": 1, "data": {"text": "text", "delimiter": "", "moved": []}}
    present |= {"retrain": {"gate": {"bounds": [bound | {"max_drop": 0.05}]}}}
    place = Place(f"sqlite:///{tmp_path / 'registry.db'}", str(tmp_path / "store"))
    registry, store = place.open(create=True), place.artefacts()
    for number, config in enumerate((former, present, present | {"data": {"text": "text", "delimiter": ";"}})):
        folder = tmp_path / str(number)
        make(folder, tiny, seed=number, training=replace(EMPTY, config=config))
        registry.publish("t", folder, store)
    assert diff(place, "t", 1, 2).differs.keys() == {"content_id", "config.seed"}
    assert diff(place, "t", 1, 3).differs["config.data.delimiter"] == [None, ";"]
    changed = {"retrain": {"gate": {"bounds": [bound | {"max_drop": 0.06}]}}}
    make(tmp_path / "3", tiny, seed=3, training=replace(EMPTY, config=present | changed))
    registry.publish("t", tmp_path / "3", store)
    assert "config.retrain.gate.bounds" in diff(place, "t", 1, 4).differs
