"""Labels with few rows in a retraining: rows that training keeps for good, and labels of the gate alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.artefact.manifest import read_manifest
from registry.store import Store
from tests.tiny import rows
from tests.trainers.retrain.place import DEV, TABLE, Place
from trainers.config.load import load_config
from trainers.data.prepare import FORMER_READERS, source_of
from trainers.data.splits import membership, place_hash
from trainers.retrain.fingerprint import take

GATE = 0.3
SETTINGS = (f"data.gate_fraction={GATE}", "retrain.gate.min_rows=20")
SIDES = {text: membership(text, DEV, GATE) for text, _ in TABLE}


def texts_of(side: str) -> list[str]:
    return [text for text, _ in TABLE if SIDES[text] == side]


def relabelled(labels: dict[str, str], more: int = 0) -> list[tuple[str, str]]:
    return [(text, labels.get(text, label)) for text, label in TABLE + rows(more, seed=5)]


def check_of(result: dict, name: str) -> dict:
    return next(check for check in result["gate"]["checks"] if check["name"] == name)


def test_a_row_that_training_needed_stays_there(place: Place):
    text, other = texts_of("dev")[0], texts_of("train")[0]
    place.data(relabelled({text: "rare"}))
    first = place.run(*SETTINGS)
    assert (first["exit"], first["live"]) == (0, 1), first["reason"]
    folder = Store(place.store).path(place.registry.live("tiny").content_id)
    manifest = read_manifest(folder)
    assert manifest.labels[-1] == "rare"
    assert manifest.training.config["data"]["moved"] == [place_hash(text)]
    assert place.run(*SETTINGS)["action"] == "nothing"

    place.data(relabelled({text: "rare", other: "rare"}))  # training has a row of its own now
    second = place.run(*SETTINGS)
    assert (second["exit"], second["live"]) == (0, 2), second["reason"]
    assert {name: tuple(counts.values()) for name, counts in second["changes"]["changes"].items()} == {
        "train": (0, 0, 1),
        "dev": (0, 0, 0),
        "gate": (0, 0, 0),
        "test": (0, 0, 0),
    }
    assert place.registry.version("tiny", 2).lineage["fingerprint"]["moved"] == [place_hash(text)]
    assert place.run(*SETTINGS)["action"] == "nothing"


def test_a_label_of_the_gate_alone_is_told_and_stops_nothing(place: Place):
    place.data(relabelled({texts_of("gate")[0]: "gated"}))
    result = place.run(*SETTINGS)
    assert (result["exit"], result["live"]) == (0, 1), result["reason"]
    check = check_of(result, "label gated")
    assert (check["verdict"], check["rows"], check["decides"]) == ("NO_EVIDENCE", 1, False)
    assert result["gate"]["rows"]["label gated"] == 1
    assert result["gate"]["rows"]["all rows"] == len(texts_of("gate")), "a row without an answer counts as wrong"

    bound = 'retrain.gate.bounds=[{"slices": "label gated", "metric": "accuracy", "at_least": 0.5}]'
    asked = place.run(*SETTINGS, bound)
    assert (asked["exit"], asked["verdict"]) == (0, ""), "nothing changed, so nothing is judged"
    place.data(relabelled({texts_of("gate")[0]: "gated"}, more=3))
    asked = place.run(*SETTINGS, bound)
    assert (asked["exit"], asked["verdict"], asked["live"]) == (11, "NO_EVIDENCE", 1)
    assert "accuracy, label gated: 1 held-out rows, gate.min_rows asks for 20" in asked["reason"]


def test_a_label_that_only_the_live_version_knows_is_not_lost_in_silence(place: Place):
    known = dict.fromkeys([*texts_of("train")[:2], texts_of("gate")[0]], "rare")
    place.data(relabelled(known))
    assert place.run(*SETTINGS)["live"] == 1
    place.data(relabelled({texts_of("gate")[0]: "rare"}))
    result = place.run(*SETTINGS)
    assert (result["exit"], result["verdict"], result["live"]) == (11, "NO_EVIDENCE", 1)
    assert "label rare: no train row has it" in result["reason"]
    assert "the live version knows it" in result["reason"]


def test_another_version_of_the_reader_is_no_reason_to_read_or_train(place: Place):
    config = load_config(place.config)
    now = take(config, None).fingerprint
    former = replace(now, source=source_of(config.data, config.head.column).key(FORMER_READERS[-1]))
    assert former.source != now.source
    assert take(config, former).rows is None
    other = take(replace(config, seed=1), former)
    assert other.rows is not None, "what is trained anew is read by the present reader"
    assert other.fingerprint.rows == now.rows


@pytest.mark.parametrize("written", ["class0 ", "class0\u00a0"])
def test_labels_in_another_spelling_are_no_change(written, place: Place):
    place.data(TABLE)
    place.run()
    place.data([(text, written if label == "class0" else label) for text, label in TABLE])
    assert place.run()["action"] == "nothing"
