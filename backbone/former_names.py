"""The names that fields of a stored config had in the first version, and have now. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbone.records import FORMER_FIELDS, GONE

RENAMED = {  # lists in a config whose items have renamed fields (`FORMER_FIELDS`): section, part, list -> class
    ("retrain", "gate", "bounds"): "Bound",
    ("retrain", "schema", "columns"): "Column",
}


def first_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the JSON values of a config under the first names of the fields."""
    return _renamed(values, _first_names)


def present_values(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the JSON values of a config that any version has stored, under the present names of the fields.

    Fields that are gone are left out while they mean nothing.
    """
    gone = {name: value for name, value in GONE["TrainConfig"].items() if stored.get(name, value) == value}
    return _renamed({name: value for name, value in stored.items() if name not in gone}, _present_names)


def _present_names(cls: str) -> dict[str, str]:
    """Returns the present name of each renamed field of a class, by its first name."""
    return {key.removeprefix(f"{cls}."): now for key, now in FORMER_FIELDS.items() if key.startswith(f"{cls}.")}


def _first_names(cls: str) -> dict[str, str]:
    """Returns the first name of each renamed field of a class, by its present name."""
    return {now: first for first, now in _present_names(cls).items()}


def _renamed(config: Mapping[str, Any], names_of: Callable[[str], Mapping[str, str]]) -> Mapping[str, Any]:
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
