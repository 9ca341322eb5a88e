"""A config as former versions wrote it, so that what they stored still means the same. Imports no jax.

A field that is newer than the first version is left out while it has its default, and renamed fields get their first
name (`backbone.former_names`). Fingerprints of the first scheme and identities of interrupted runs are made of this.

Former versions read stages that nobody named as `all`; now they are a climb. What is stored holds the stages by name,
so it keeps its meaning. Digests leave `all` out, as they always did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backbone.former_names import first_values
from backbone.records import GONE, encode, encode_set
from trainers.config.experiment import TrainConfig
from trainers.config.plan import AUTO

FORMER_STAGES = "all"  # meaning of stages that nobody named, in former versions; digests leave it out

NEWER_FIELDS = {  # fields by section that the first version did not have; all may be left out
    "": ("precision", "mesh"),
    "plan": ("climb",),
    "data": ("moved", "delimiter", "word_column", "tag_column"),
    "target": ("platform",),
    "retrain": ("rows",),
    "retrain.gate": ("label_drop",),
}


def with_stages(config: TrainConfig) -> TrainConfig:
    """Returns the config with its stages by name, as everything that is stored holds them."""
    return _named(config, AUTO if config.climbs else FORMER_STAGES)


def with_former_stages(config: TrainConfig) -> TrainConfig:
    """Returns the config with its stages by name, as a former version understood it."""
    return _named(config, FORMER_STAGES)


def _named(config: TrainConfig, stages: str) -> TrainConfig:
    return replace(config, plan=replace(config.plan, stages=stages)) if config.plan.is_open else config


def as_begun(config: TrainConfig, stored: Mapping[str, Any]) -> TrainConfig:
    """Returns the config of a run with its stages by name; open ones are those that the config `stored` began with."""
    plan = stored.get("plan", {})
    former = isinstance(plan, Mapping) and plan.get("stages") == FORMER_STAGES
    return with_former_stages(config) if former else with_stages(config)


def counted_values(config: TrainConfig) -> Mapping[str, Any]:
    """Returns the JSON values of a config, with its stages by name, that differ from the defaults of all versions."""
    values = dict(encode_set(config))
    plan = {name: v for name, v in values.pop("plan", {}).items() if (name, v) != ("stages", FORMER_STAGES)}
    return values | ({"plan": plan} if plan else {})


def former_values(config: TrainConfig) -> Mapping[str, Any]:
    """Returns the JSON values of a config in the fields of the first version."""
    values = without_newer(encode(config), encode(TrainConfig()))
    return {**first_values(values), **GONE["TrainConfig"]}


def without_newer(values: Mapping[str, Any], default: Mapping[str, Any], section: str = "") -> Mapping[str, Any]:
    """Returns the JSON values of a config without the fields of `NEWER_FIELDS` that have their default."""
    newer = NEWER_FIELDS.get(section, ())
    left = {k: v for k, v in values.items() if k not in newer or v != default[k]}
    places = {key: f"{section}.{key}" if section else key for key in left}
    return {
        key: without_newer(value, default[key], places[key]) if _has_newer(places[key]) else value
        for key, value in left.items()
    }


def _has_newer(section: str) -> bool:
    """Returns whether newer fields lie in a section, or in one inside it."""
    return any(name == section or name.startswith(f"{section}.") for name in NEWER_FIELDS)
