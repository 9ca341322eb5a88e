"""A config as former versions wrote it, so that what they stored still means the same. Imports no jax.

A field that is newer than the first version is left out while it has its default, and renamed fields get their first
name (`backbone.former_names`). Fingerprints of the first scheme and identities of interrupted runs are made of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone.former_names import first_values
from backbone.records import GONE, encode
from trainers.config.experiment import TrainConfig

NEWER_FIELDS = {  # fields by section that the first version did not have; all may be left out
    "": ("precision", "mesh"),
    "plan": ("climb",),
    "data": ("moved", "delimiter", "word_column", "tag_column"),
    "target": ("platform",),
    "retrain": ("rows",),
    "retrain.gate": ("label_drop",),
}


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
