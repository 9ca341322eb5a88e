"""A config as former versions wrote it, so that what they stored still means the same. Imports no jax.

A field that is newer than the first version is left out while it has its default, and renamed fields get their first
name. Fingerprints of the first scheme and identities of interrupted runs are made of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone.records import encode
from trainers.config.data import Data
from trainers.config.experiment import TrainConfig
from trainers.config.plan import Plan

NEWER_FIELDS = {  # fields by section that the first version did not have; all may be left out
    "plan": ("climb",),
    "data": ("delimiter", "word_column", "tag_column"),
}
RENAMED_IN_BOUNDS = {"max_drop": "most_lost"}  # fields of retrain.gate.bounds: present name, first name


def former_values(config: TrainConfig) -> dict[str, Any]:
    """Returns the JSON values of a config in the fields of the first version."""
    values: dict[str, Any] = encode(config)
    values |= {section: former_section(section, getattr(config, section)) for section in NEWER_FIELDS}
    gate = values["retrain"]["gate"]
    gate["bounds"] = [{RENAMED_IN_BOUNDS.get(k, k): v for k, v in bound.items()} for bound in gate["bounds"]]
    return values


def former_section(section: str, part: Data | Plan) -> Mapping[str, Any]:
    """Returns the JSON values of a section without its newer fields that have their defaults."""
    values, default = encode(part), encode(type(part)())
    newer = [name for name in NEWER_FIELDS[section] if values[name] == default[name]]
    return {name: value for name, value in values.items() if name not in newer}
