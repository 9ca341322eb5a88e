"""A config as former versions wrote it, so that what they stored still means the same. Imports no jax.

A field that is newer than the first version is left out while it has its default, and renamed fields get their first
name. Fingerprints of the first scheme and identities of interrupted runs are made of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone.records import GONE, encode
from trainers.config.experiment import TrainConfig

NEWER_FIELDS = {  # fields by section that the first version did not have; all may be left out
    "plan": ("climb",),
    "data": ("moved", "delimiter", "word_column", "tag_column"),
    "target": ("platform",),
    "retrain": ("rows",),
}
NEWER_IN_GATE = ("label_drop",)  # fields of retrain.gate that the first version did not have
RENAMED_IN_BOUNDS = {"max_drop": "most_lost"}  # fields of retrain.gate.bounds: present name, first name


def former_values(config: TrainConfig) -> dict[str, Any]:
    """Returns the JSON values of a config in the fields of the first version."""
    values = {**without_newer(encode(config), encode(TrainConfig())), **GONE["TrainConfig"]}
    if not config.precision:
        del values["precision"]
    default = encode(TrainConfig())["retrain"]["gate"]
    gate = {k: v for k, v in values["retrain"]["gate"].items() if k not in NEWER_IN_GATE or v != default[k]}
    values["retrain"] = {**values["retrain"], "gate": gate}
    gate["bounds"] = [{RENAMED_IN_BOUNDS.get(k, k): v for k, v in bound.items()} for bound in gate["bounds"]]
    return values


def without_newer(values: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the JSON values of a config without the fields of `NEWER_FIELDS` that have their default."""
    left_out = {
        section: [name for name in names if values[section][name] == default[section][name]]
        for section, names in NEWER_FIELDS.items()
        if section in values
    }
    return {
        section: {k: v for k, v in value.items() if k not in left_out[section]} if section in left_out else value
        for section, value in values.items()
    }
