"""Frozen dataclasses to plain JSON and back, strictly.

Specs and configs are frozen dataclasses. `encode` turns one into JSON values. `decode` builds one from JSON values and
refuses unknown keys, missing keys and wrong types, naming the field by its dotted path. A tag tells the variants of a
registered base (`backbone.variants.registered`) apart: a class variable named in `TAGS` (`method = "lora"`), written
first and read to choose the class. A field may have another name in JSON (`stored_as`).

A `Raw` string comes from the command line (`--set a.b=c`) and is read as the type that the field declares. So
`--set data.label=1` gives the string "1", and `--set epochs=1` the number.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from backbone.errors import InputError, nearest, shown
from backbone.texts import load_json
from backbone.variants.field_types import field_types
from backbone.variants.registered import Registered, require_recorded, variant, variants
from backbone.variants.statements import unwrapped

T = TypeVar("T")

TAGS = ("method", "kind", "family", "penalty")
KEY = "json"  # entry of a field's metadata: its name in JSON
NEWER = "newer"  # entry of a field's metadata: JSON leaves it out while it has its default
FORMER_FIELDS = {  # present names of renamed fields; messages give them, nothing is read by a former name
    "Bound.most_lost": "max_drop",
    "Column.least": "min",
    "Column.most": "max",
    "TrainConfig.compute_dtype": "precision",
    "TrainConfig.validate": "precision",
}
# values of fields that are gone at which they mean nothing, by class; stored configs may hold them
GONE: Mapping[str, Mapping[str, Any]] = {"TrainConfig": {"compute_dtype": "float32", "validate": []}}


_NONE = object()  # equal to no JSON value


class Raw(str):
    """Text from the command line, to be read as the type of its field."""

    __slots__ = ()


def stored_as(key: str) -> dict[str, str]:
    """Returns the metadata of a field that JSON calls `key`."""
    return {KEY: key}


def newer() -> dict[str, bool]:
    """Returns the metadata of a field that JSON leaves out at its default, so that what is stored without it stays."""
    return {NEWER: True}


def key_of(field: dataclasses.Field[Any]) -> str:
    """Returns the name of a field in JSON."""
    return str(field.metadata.get(KEY, field.name))


def encode(value: Any) -> Any:
    """Returns the JSON values (dict, list, str, int, float, bool, None) of a dataclass, tag first.

    A `newer` field is left out while it has its default.
    """
    if isinstance(value, Registered):
        require_recorded(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = tag_of(type(value))
        head = {tag[0]: tag[1]} if tag else {}
        fields = (f for f in dataclasses.fields(value) if not (f.metadata.get(NEWER) and _is_default(f, value)))
        return head | {key_of(f): encode(getattr(value, f.name)) for f in fields}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Returns the text of a member of an Enum, and the number of a scalar of NumPy; other values as they are."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        return value.item()
    return value


def encode_set(value: Any) -> Any:
    """Returns `encode` of a dataclass without the fields that have their default, at any depth; tags stay."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return encode_items(value)
    tag = tag_of(type(value))
    fields = {key_of(f): getattr(value, f.name) for f in dataclasses.fields(value) if not _is_default(f, value)}
    return ({tag[0]: tag[1]} if tag else {}) | {name: encode_set(item) for name, item in fields.items()}


def encode_items(value: Any) -> Any:
    """Returns lists and tables with each item by `encode_set`; other values as they are."""
    if isinstance(value, (tuple, list)):
        return [encode_set(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode_set(item) for key, item in value.items()}
    return _plain(value)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return False
    given = getattr(value, field.name)
    return type(given) is type(default) and bool(given == default)


def canonical_json(value: Any) -> str:
    """Returns the one spelling of JSON values that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Returns `sha256:<hex>` of the canonical JSON of `value`."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def former_field(cls: str, name: str) -> str:
    """Returns the present name of a field that the class `cls` had under another name; "" for any other field."""
    return FORMER_FIELDS.get(f"{cls}.{name}", "")


def tag_of(cls: type) -> tuple[str, str] | None:
    """Returns the name and value of the class variable that tells `cls` from its siblings, if it has one."""
    for name in TAGS:
        if name in cls.__dict__ and name not in {f.name for f in dataclasses.fields(cls)}:
            return name, cls.__dict__[name]
    return None


def decode(kind: type[T], value: Any, where: str = "") -> T:
    """Builds a `kind` (dataclass) from JSON values. Raises InputError naming the dotted field."""
    return typing.cast(T, _decode(kind, value, where))


hints = functools.cache(field_types)  # types of the fields of a dataclass, by name


def _decode(kind: Any, value: Any, where: str) -> Any:
    kind = unwrapped(kind)
    origin = get_origin(kind)
    if kind is Any:
        return str(value) if isinstance(value, Raw) else value
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    if origin is Literal:
        return _decode_literal(get_args(kind), value, where)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where or 'value'}: expected a table, got {shown(value)}")
        key_kind, item_kind = get_args(kind)
        return {_decode(key_kind, k, where): _decode(item_kind, v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(kind, type) and issubclass(kind, Registered) and not dataclasses.is_dataclass(kind):
        return _decode_registered(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _decode_enum(kind, value, where)
    return _decode_scalar(kind, value, where)


def _decode_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where or cls.__name__}: expected the fields of {cls.__name__}, got {shown(value)}")
    names = {key_of(f): f for f in dataclasses.fields(cls)}
    tag = tag_of(cls)
    prefix = f"{where}." if where else ""
    arguments = {}
    for key, item in value.items():
        if tag and key == tag[0]:
            if item != tag[1]:
                raise InputError(f"{prefix}{key}: expected {tag[1]!r}, got {shown(str(item))}")
            continue
        if key not in names:
            if GONE.get(cls.__name__, {}).get(key, _NONE) == item and not isinstance(item, Raw):
                continue  # a stored config of a former version
            now = former_field(cls.__name__, key)
            remedy = f"it is now {now}" if now else nearest(key, names)
            raise InputError(f"{prefix}{key}: no such field in {cls.__name__}; {remedy}")
        arguments[names[key].name] = _decode(hints(cls)[names[key].name], item, f"{prefix}{key}")
    for name, field in names.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in arguments:
            raise InputError(f"{prefix}{name}: missing; {cls.__name__} needs it")
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None


def _decode_registered(base: type[Registered], value: Any, where: str) -> Any:
    """Decodes to the variant that the tag in `value` names; text alone is the tag."""
    name = base.registry.by
    if isinstance(value, str):
        value = {name: str(value)}
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a table with {name}=..., got {shown(value)}")
    if name not in value:
        raise InputError(f"{where}.{name}: missing; one of {', '.join(variants(base))}")
    return _decode_dataclass(variant(base, str(value[name]), f"{where}.{name}"), value, where)


def _decode_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(None) in members:
        if value is None or (isinstance(value, Raw) and value.lower() in ("none", "null", "")):
            return None
        members = tuple(m for m in members if m is not type(None))
    if len(members) == 1:
        return _decode(members[0], value, where)
    problems = []
    for member in members:
        try:
            return _decode(member, value, where)
        except InputError as error:
            problems.append(str(error))
    raise InputError("; or ".join(dict.fromkeys(problems)))


def _decode_literal(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, Raw) and str(value) == str(choice)):
            return choice
    raise InputError(f"{where}: {shown(str(value))} is not one of {', '.join(map(str, choices))}")


def _decode_enum(kind: type[Enum], value: Any, where: str) -> Enum:
    """Decodes to the member that has the text `value`."""
    for member in kind:
        if member.value == value:
            return member
    raise InputError(f"{where}: {shown(str(value))} is not one of {', '.join(str(member.value) for member in kind)}")


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, Raw):
        text = value.strip()
        if text.startswith("["):
            try:
                value = [item if not isinstance(item, str) else Raw(item) for item in load_json(text)]
            except ValueError as error:
                raise InputError(f"{where}: not a JSON list: {error}") from None
        else:
            value = [Raw(item.strip()) for item in text.split(",")] if text else []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: expected a list, got {shown(value)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(kinds):
        raise InputError(f"{where}: expected {len(kinds)} values, got {len(value)}")
    return tuple(_decode(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    name = getattr(kind, "__name__", str(kind))
    if isinstance(value, Raw):
        if kind is str:
            return str(value)
        if kind is bool:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if value.lower() in words:
                return words[value.lower()]
            raise InputError(f"{where}: {shown(str(value))} is not a bool (true or false)")
        try:
            value = kind(value)
        except ValueError:
            raise InputError(
                f"{where}: {shown(str(value))} is not {'an' if name[0] in 'aeiou' else 'a'} {name}"
            ) from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{where}: must be a finite number, got {shown(value)}") from None
    if type(value) is not kind:
        raise InputError(f"{where}: expected {name}, got {shown(value)}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{where}: must be a finite number, got {value}")
    return value
