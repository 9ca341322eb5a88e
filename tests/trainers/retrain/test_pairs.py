"""The gate where candidate and live version read the rows in different ways."""

from __future__ import annotations

import csv

import pytest

from adapters.graft import load_graft
from adapters.specs import Classification, MultiLabel, Regression
from registry.store import Store
from tests.tiny import rows
from tests.trainers.retrain.place import DEV, Place
from trainers.data.splits import membership
from trainers.retrain.compare import incomparable

PAIRS = ("data.text_pair=other", "head.pair=cross")


def write_pairs(place: Place, count: int) -> list[tuple[str, str, str]]:
    """Train rows (text, other, label): whether both texts are of one class."""
    made = []
    for name, size, seed in (("train.csv", count, 1), ("test.csv", 40, 3)):
        both = zip(rows(size, 2, seed=seed), rows(size, 2, seed=seed + 1), strict=True)
        made.append([(one, other, "same" if a == b else "different") for (one, a), (other, b) in both])
        with (place.folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "other", "label"), *made[-1]])
    return made[0]


def test_the_live_version_reads_pairs_as_it_was_trained(place, tiny):
    """A new head.pair: the champion's answers in the gate are those that it gives when it serves."""
    table = write_pairs(place, 240)
    assert place.run(*PAIRS, "retrain.gate.first=bounds", "target.min_score=0.01")["live"] == 1
    champion = load_graft(Store(place.store).path(place.registry.live("tiny").content_id), tiny)
    result = place.run(PAIRS[0], "head.pair=two_tower")
    held = [row for row in table if membership(f"{row[0]}\0{row[1]}", DEV, 0.0) == "dev"]
    right = [
        answer.label == label
        for answer, (_, _, label) in zip(champion.predict([row[:2] for row in held]), held, strict=True)
    ]
    assert result["gate"]["rows"]["all rows"] == len(held)
    assert result["gate"]["champion_metrics"]["accuracy"] == pytest.approx(sum(right) / len(held))


def test_single_texts_and_pairs_are_not_compared(place):
    write_pairs(place, 240)
    assert place.run("retrain.gate.first=bounds", "target.min_score=0.01")["live"] == 1
    result = place.run(*PAIRS)
    assert (result["exit"], result["verdict"], result["live"]) == (11, "NO_EVIDENCE", 1)
    assert "the live version reads head.pair=none, the candidate head.pair=cross; promote" in result["reason"]


def test_what_can_be_compared():
    assert incomparable(Classification(pair="cross"), Classification(pair="cosine")) == ""
    assert incomparable(MultiLabel(), MultiLabel(threshold=0.3)) == ""
    for own, other in ((Classification(), MultiLabel()), (MultiLabel(), Regression())):
        assert "head.kind" in incomparable(own, other)
