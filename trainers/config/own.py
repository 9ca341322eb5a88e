"""The variants of a config that a user defines, as what they compute depends on them. Imports no jax.

A variant of Topgraft changes with a version of Topgraft. A user's own changes with its file: its code, and the defaults
of its settings. So the settings that it states count in full, and so do the bytes of its files.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError
from backbone.records import digest, encode, encode_set, key_of
from backbone.variants.code_files import code_hash
from backbone.variants.registered import Registered, is_own, own_files
from trainers.config.experiment import TrainConfig

OWN = "own variants"  # part of the identity of an interrupted run; runs of the first versions lack it


@dataclass(frozen=True)
class OwnVariant:
    """A variant that a user defines, in a config."""

    name: str  # how configs name it: method=gain
    values: Mapping[str, Any]  # its settings, as JSON
    code: str  # hash of the files that define it; "" where none does, as for a text that was executed


def own_variants(*parts: object) -> tuple[OwnVariant, ...]:
    """Returns the variants in parts of a config that do not come with Topgraft, in order, at any depth."""
    return tuple(_own(value) for part in parts for value in _variants(part) if own_files(type(value)))


def own_in_run(config: TrainConfig) -> tuple[OwnVariant, ...]:
    """Returns the user's own variants of a training run, its freezing schedule included; formats belong to the rows."""
    return own_variants(config, config.plan.schedule)


def own_in_graft(config: TrainConfig) -> tuple[OwnVariant, ...]:
    """Returns the user's own variants that make up a graft: methods and head."""
    return own_variants(config.methods, config.head)


def own_identity(*parts: object) -> dict[str, str]:
    """Returns what the user's own variants in parts of a config add to the identity of an interrupted run."""
    variants = own_variants(*parts)
    return {OWN: digest(encode(variants))} if variants else {}


def require_code(config: TrainConfig) -> None:
    """Raises InputError for a variant of a user's own that is defined in no file."""
    for value in _variants((config, config.plan.schedule)):
        try:
            code_hash(own_files(type(value)))
        except InputError as error:
            raise InputError(f"{_name(value)} is defined in {error}") from None


def _own(value: Registered) -> OwnVariant:
    try:
        code = code_hash(own_files(type(value)))
    except InputError:
        code = ""
    return OwnVariant(_name(value), _values(value), code)


def _values(value: Any) -> Mapping[str, Any]:
    """Returns the settings of an own variant; one that Topgraft states in a base counts unless it has its default."""
    if not dataclasses.is_dataclass(value):  # a schedule without settings
        return {}
    stated = {name for cls in inspect.getmro(type(value)) if is_own(cls) for name in inspect.get_annotations(cls)}
    every = {key_of(field): field.name for field in dataclasses.fields(value)}
    counted: Mapping[str, Any] = encode_set(value)
    return {**counted, **{key: encode_set(getattr(value, name)) for key, name in every.items() if name in stated}}


def _name(value: Registered) -> str:
    return f"{value.registry.by}={value.tag}"


def _variants(value: object) -> Iterator[Registered]:
    """Yields the variants within a value."""
    if isinstance(value, Registered):
        yield value
    if isinstance(value, tuple):
        for item in value:
            yield from _variants(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _variants(getattr(value, field.name))
