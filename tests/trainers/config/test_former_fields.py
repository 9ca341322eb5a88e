"""Renamed fields of a config, in the direction of the first version and back."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from backbone.former_names import RENAMED, present_values
from backbone.records import FORMER_FIELDS, GONE, decode
from trainers.config import TrainConfig
from trainers.config.former import former_values
from trainers.config.retrain import Bound, Column, Gate, Retrain, Schema

POLICY = Retrain(
    schema=Schema(columns=(Column("text", min=1, max=500), Column("label"))),
    gate=Gate(bounds=(Bound(max_drop=0.05), Bound(at_least=0.3))),
)


def test_every_class_with_renamed_fields_has_its_place():
    assert {name.partition(".")[0] for name in FORMER_FIELDS} - set(GONE) == set(RENAMED.values())


def test_renamed_fields_have_their_first_names_and_come_back():
    config = TrainConfig(retrain=POLICY)
    values = former_values(config)
    columns, bounds = values["retrain"]["schema"]["columns"], values["retrain"]["gate"]["bounds"]
    assert [(column["name"], column["least"], column["most"]) for column in columns] == [
        ("text", 1, 500),
        ("label", None, None),
    ]
    assert [(bound["at_least"], bound["most_lost"]) for bound in bounds] == [(0, 0.05), (0.3, None)]
    assert not {"min", "max", "max_drop"} & {name for item in (*columns, *bounds) for name in item}
    assert decode(TrainConfig, present_values(values)) == config
    assert decode(TrainConfig, present_values(present_values(values))) == config, "present names stay"


@pytest.mark.parametrize("schema", [None, 3, {"columns": {"least": 1}}, {"columns": [3]}, {"columns": [{"leastt": 1}]}])
def test_values_of_another_shape_are_left_to_the_decoder(schema):
    values = {"retrain": {"schema": schema}}
    assert present_values(values) == values
    with pytest.raises(InputError, match=r"^retrain\.schema"):
        decode(TrainConfig, present_values(values))
