"""A config as former versions wrote it, so that what they stored still means the same. Imports no jax.

A field that is newer than the first version is left out while it has its default, and renamed fields get their first
name. Fingerprints of the first scheme and identities of interrupted runs are made of this. The other way round,
`present_values` reads a stored config by the present names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbone.records import FORMER_FIELDS, encode
from trainers.config.experiment import TrainConfig

NEWER_FIELDS = {  # fields by section that the first version did not have; all may be left out
    "plan": ("climb",),
    "data": ("moved", "delimiter", "word_column", "tag_column"),
    "target": ("platform",),
}
RENAMED = {  # lists in a config whose items have renamed fields (`FORMER_FIELDS`): section, part, list -> class
    ("retrain", "gate", "bounds"): "Bound",
    ("retrain", "schema", "columns"): "Column",
}


def former_values(config: TrainConfig) -> dict[str, Any]:
    """Returns the JSON values of a config in the fields of the first version."""
    return _renamed(without_newer(encode(config), encode(TrainConfig())), _first_names)


def present_values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON values of a config that any version has stored, under the present names of the fields."""
    return _renamed(stored, _present_names)


def _present_names(cls: str) -> dict[str, str]:
    """Returns the present name of each renamed field of a class, by its first name."""
    return {key.removeprefix(f"{cls}."): now for key, now in FORMER_FIELDS.items() if key.startswith(f"{cls}.")}


def _first_names(cls: str) -> dict[str, str]:
    """Returns the first name of each renamed field of a class, by its present name."""
    return {now: first for first, now in _present_names(cls).items()}


def _renamed(config: Mapping[str, Any], names_of: Callable[[str], Mapping[str, str]]) -> dict[str, Any]:
    """Returns a copy of a config's JSON values with the fields of `RENAMED` renamed."""
    values: Any = config
    for path, cls in RENAMED.items():
        values = _with_names(values, path, names_of(cls))
    return dict(values)


def _with_names(values: Any, path: Sequence[str], names: Mapping[str, str]) -> Any:
    """Renames the fields of each item of the list at `path`; what has another shape stays, for `decode` to refuse."""
    if path and isinstance(values, Mapping) and path[0] in values:
        return {**values, path[0]: _with_names(values[path[0]], path[1:], names)}
    if path or not isinstance(values, list):
        return values
    return [{names.get(k, k): v for k, v in item.items()} if isinstance(item, dict) else item for item in values]


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
