"""Stages that nobody names: where they are a climb, and how digests and stored configs tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.specs import Bottleneck, Classification, Lora, Probe, TokenTagging
from backbone.errors import InputError
from backbone.records import decode, encode
from trainers.config import Plan, Ranks, TrainConfig
from trainers.config.former import as_begun, counted_values, with_former_stages, with_stages

OPEN, ALL, AUTO = TrainConfig(), TrainConfig(plan=Plan(stages="all")), TrainConfig(plan=Plan(stages="auto"))


@pytest.mark.parametrize(
    ("fields", "climbs"),
    [
        ({}, True),
        ({"adapter": Lora(blocks="-2:")}, True),
        ({"adapter": Lora(blocks=":2")}, False),
        ({"extra": (Bottleneck(blocks="1:2"),)}, False),
        ({"adapter": Probe()}, False),
        ({"head": TokenTagging(), "metric": "entity_f1"}, False),
        ({"head": Classification(pooling="attention")}, False),
        ({"ranks": Ranks(max_bytes=1000)}, False),
        ({"head_start": "zero"}, False),
        ({"plan": Plan(stages="top(1)")}, False),
        ({"plan": Plan(cache="none")}, True),
    ],
)
def test_open_stages_are_a_climb_where_the_rest_allows_one(fields, climbs):
    config = TrainConfig(**fields)
    assert config.climbs == climbs
    named = with_stages(config)
    assert named.climbs == climbs
    assert named.plan.stages == (config.plan.stages or ("auto" if climbs else "all"))
    assert decode(TrainConfig, encode(config)) == config


def test_a_climb_that_is_named_overrules_what_open_stages_heed():
    assert TrainConfig(plan=Plan(stages="auto"), head_start="zero").climbs
    assert TrainConfig(plan=Plan(climb=True)) == AUTO
    with pytest.raises(InputError, match="climb: chooses the blocks itself; leave it out, or leave out stages=all"):
        Plan(stages="all", climb=True)


def test_digests_are_made_of_what_they_were_made_of_when_all_was_the_default():
    assert counted_values(ALL) == {}
    assert counted_values(AUTO) == {"plan": {"stages": "auto"}}
    assert counted_values(replace(ALL, plan=Plan(stages="all", cache="none"))) == {"plan": {"cache": "none"}}
    assert counted_values(with_stages(OPEN)) == counted_values(AUTO)
    assert counted_values(with_former_stages(OPEN)) == counted_values(ALL)


def test_a_run_goes_on_with_the_stages_that_it_began_with():
    assert as_begun(OPEN, encode(ALL)) == ALL
    assert as_begun(OPEN, encode(AUTO)) == as_begun(OPEN, {}) == AUTO
    assert as_begun(AUTO, encode(ALL)) == AUTO, "stages that are named stay"
