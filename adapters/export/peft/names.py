"""PEFT's rules for names: which layers a config chooses, and which rank or alpha a layer has.

They are those of PEFT 0.21 (`check_target_module_exists`, `get_pattern_key`), on the full names of the wrapped model:

    target_modules as text         a regular expression of the whole name; `all-linear` is every linear layer
    target_modules as a list       whole names, or ends of names behind a dot
    exclude_modules                the same two ways; excluded first
    modules_to_save                expressions of a part between dots; such a layer is trained whole, never adapted
    layers_to_transform            numbers of layers, for names that a list matched by their end; the number is the
                                   first one behind `layers_pattern`, or behind any part of the name
    rank_pattern, alpha_pattern    expressions of the name or of its end behind a dot; the first that matches decides
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError, nearest

ALL_LINEAR = "all-linear"

# what PEFT makes of a text of modules_to_save, of layers_pattern, and of a key of rank_pattern and alpha_pattern
_PART, _LIST, _END = r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<number>\d+)\.", r"(.*\.)?({})$"

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """The layers that a PEFT config chooses."""

    where: str  # file of the config, for messages
    target: Names  # target_modules
    exclude: Names  # exclude_modules
    saved: tuple[str, ...]  # modules_to_save
    numbers: tuple[int, ...]  # layers_to_transform; () for all
    lists: tuple[str, ...]  # layers_pattern; () for any

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str, default: Sequence[str]) -> Chosen:
        """Returns the choice of a config; `default` stands for `target_modules` null.

        Raises InputError naming a field that is none of PEFT's.
        """
        given = config.get("target_modules") is not None
        target = _names(config, "target_modules", where) if given else tuple(default)
        if not target:
            raise InputError(f"{where}: target_modules: expected names of layers; PEFT has no default for this model")
        numbers = config.get("layers_to_transform")
        numbers = [numbers] if isinstance(numbers, int) else numbers or []
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise InputError(f"{where}: layers_to_transform: expected numbers of layers, got {numbers!r}")
        lists, saved = (_names(config, field, where) for field in ("layers_pattern", "modules_to_save"))
        if isinstance(saved, str):
            raise InputError(f"{where}: modules_to_save: expected a list of names, got {saved!r}")
        lists = (lists,) if isinstance(lists, str) else lists
        chosen = cls(where, target, _names(config, "exclude_modules", where), saved, tuple(numbers), lists)
        for field, expressions in {"target_modules": target, "exclude_modules": chosen.exclude}.items():
            if isinstance(expressions, str):
                _require_expression(expressions, expressions, f"{where}: {field}")
        for name in saved:
            _require_expression(_PART.format(name), name, f"{where}: modules_to_save")
        for name in lists:
            _require_expression(_LIST.format(name), name, f"{where}: layers_pattern")
        return chosen

    def chooses(self, name: str) -> bool:
        """Returns whether the layer of this name is adapted."""
        if self.exclude and _is_named(name, self.exclude):
            return False
        if any(re.match(_PART.format(saved), name) for saved in self.saved):
            return False
        if isinstance(self.target, str):
            return self.target.lower() == ALL_LINEAR or _is_named(name, self.target)
        if name in self.target:
            return True
        return _is_named(name, self.target) and (not self.numbers or self._number(name) in self.numbers)

    def _number(self, name: str) -> int | None:
        """Returns the number of the layer in its list."""
        for expression in [_LIST.format(part) for part in self.lists] or [r".*?\.[^.]*\.(?P<number>\d+)\."]:
            if match := re.match(expression, name):
                return int(match["number"])
        return None

    def require(self, adapted: Collection[str], known: Collection[str]) -> None:
        """Raises InputError unless the adapted layers are those that the config chooses of the `known` ones."""
        expected = {name for name in known if self.chooses(name)}
        if without := [name for name in known if name in expected and name not in adapted]:
            raise InputError(
                f"{self.where}: target_modules: {_some(without)}: chosen, but the folder has no tensors of it; "
                "save the adapter anew with PEFT's save_pretrained"
            )
        if beyond := [name for name in adapted if name not in expected]:
            raise InputError(
                f"{self.where}: target_modules: {_some(beyond)}: not chosen, so PEFT leaves its tensors out; "
                "name it in target_modules, or save the adapter anew with PEFT's save_pretrained"
            )


@dataclass(frozen=True)
class Pattern:
    """A number for each layer: `rank_pattern` with `r`, or `alpha_pattern` with `lora_alpha`."""

    where: str  # file and field, for messages
    common: float  # number of layers that no expression matches
    numbers: Mapping[str, float]  # by expression, in the order of the file

    @classmethod
    def of(cls, config: Mapping[str, Any], field: str, common: str, default: float, where: str) -> Pattern:
        """Returns the numbers of a config; raises InputError naming what is no expression or no positive number."""
        patterns = config.get(field) or {}
        if not isinstance(patterns, dict):
            raise InputError(f"{where}: {field}: expected an object, got {patterns!r}")
        for key in patterns:
            _require_expression(_END.format(key), key, f"{where}: {field}")
        numbers = {key: _positive(value, f"{where}: {field}: {key!r}") for key, value in patterns.items()}
        return cls(f"{where}: {field}", _positive(config.get(common, default), f"{where}: {common}"), numbers)

    def __call__(self, name: str) -> float:
        """Returns the number of the layer of this name."""
        return next((number for key, number in self.numbers.items() if _ends_with(name, key)), self.common)

    def unmatched(self, names: Collection[str]) -> tuple[str, ...]:
        """Returns a note for each expression that matches none of the names, as PEFT warns."""
        return tuple(
            f"{self.where}: {key!r} matches no layer, as in PEFT; {nearest(key, names)}"
            for key in self.numbers
            if not any(_ends_with(name, key) for name in names)
        )


def _ends_with(name: str, expression: str) -> bool:
    return re.match(_END.format(expression), name) is not None


def _is_named(name: str, names: Names) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return name in names or any(name.endswith(f".{end}") for end in names)


def _names(config: Mapping[str, Any], field: str, where: str) -> Names:
    value = config.get(field) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise InputError(f"{where}: {field}: expected a text or a list of texts, got {value!r}")
    return tuple(value)


def _require_expression(whole: str, part: str, where: str) -> None:
    """Raises InputError unless `whole`, in which PEFT puts the text `part`, is a regular expression."""
    try:
        re.compile(whole)
    except re.error as error:
        raise InputError(f"{where}: {part!r} is no regular expression: {error}") from error


def number(config: Mapping[str, Any], field: str, default: float, where: object) -> float:
    """Returns a number that is not negative, or the default where the field is absent or null."""
    value = config.get(field)
    if not value:
        return default
    return _positive(value, f"{where}: {field}")


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise InputError(f"{where}: expected a positive number, got {value!r}")
    return float(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
