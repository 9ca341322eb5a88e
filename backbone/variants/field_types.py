"""The types that a setting of a variant may have: those that records hold, and give back as they were. Imports no jax.

A type is checked where its class is defined. Otherwise a graft could be trained with a setting that nothing can load.
A name that is not known there, such as a class further down in the file, is looked at again when the variant is first
looked up.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import sys
import typing
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from backbone.variants.statements import is_class_variable, misfit, unwrapped

ALLOWED = (
    "str, int, float, bool, Literal, an Enum of texts, tuple[T, ...], T | None, a frozen dataclass of such fields, "
    "or a base of variants such as Method"
)
REMEDIES = {  # what to write instead of a type
    Any: "name the type",
    bytes: "write str",
    complex: "write two floats",
    dict: "write tuple[tuple[str, T], ...]",
    frozenset: "write tuple[T, ...]",
    list: "write tuple[T, ...]",
    set: "write tuple[T, ...]",
    tuple: "write tuple[T, ...]",
}
CONSTANT = "write a str, int, float or tuple from which it is made, or ClassVar[...] for a constant"


class Origin(NamedTuple):
    """Where a class statement stands."""

    file: str  # file, or what code without a file is called
    names: Mapping[str, Any]  # names of that file, kept after a script has ended
    local: Mapping[str, Any]  # names of the function around it


ORIGINS: WeakKeyDictionary[type, Origin] = WeakKeyDictionary()  # of variants and their bases
_nested: WeakKeyDictionary[type, Mapping[str, Any]] = WeakKeyDictionary()  # types of the fields of nested dataclasses


def names_of(cls: type) -> Mapping[str, Any]:
    """Returns the names that the annotations of a class may use, also if its script has ended."""
    if cls in ORIGINS:
        return {**ORIGINS[cls].names, **ORIGINS[cls].local}
    module = vars(sys.modules.get(cls.__module__, builtins))
    if module.get(cls.__name__) is cls:
        return module
    return {**module, **getattr(vars(cls).get("__init__"), "__globals__", {})}


def field_types(cls: type) -> Mapping[str, Any]:
    """Returns the types of the fields of a dataclass, with those of its bases. Raises what an unknown name raises."""
    types: Mapping[str, Any] = {}
    for base in reversed(cls.__mro__):
        types = {**types, **(_nested.get(base) or _evaluated(_annotations(base), names_of(base)))}
    return types


def _annotations(cls: type) -> Mapping[str, Any]:
    return {name: kind for name, kind in inspect.get_annotations(cls).items() if not is_class_variable(kind)}


def _evaluated(annotations: Mapping[str, Any], names: Mapping[str, Any]) -> Mapping[str, Any]:
    holder = type("Fields", (), {"__annotations__": dict(annotations)})
    return typing.get_type_hints(holder, globalns=dict(names), include_extras=True)


def field_faults(cls: type, reserved: Collection[str], *, late: bool = False) -> Iterator[str]:
    """Yields the faults of the fields that a class states, in words; `reserved` are names that no field may have.

    With `late` an unknown name in a type is a fault; before, the file may still define it. Fields of a plain dataclass
    among the bases count as the class's own.
    """
    for base in cls.__mro__:
        if base is not cls and (base in ORIGINS or "__dataclass_fields__" not in vars(base)):
            continue
        for name, annotation in _annotations(base).items():
            key = getattr(vars(base).get(name), "metadata", {}).get("json", name)
            if name in reserved or key in reserved:
                yield f"{name}: no field may have this name, since records tell variants apart by it; choose another"
            elif fault := _field_fault(base, name, annotation, {**names_of(cls), **names_of(base)}, late=late):
                yield f"{name}: {fault}"


def _field_fault(cls: type, name: str, annotation: Any, names: Mapping[str, Any], *, late: bool) -> str:
    """Returns the fault of one field; "" where there is none."""
    try:
        kind = _evaluated({name: annotation}, names)[name]
    except Exception as error:  # noqa: BLE001 - whatever a text that is evaluated raises
        return _unknown(annotation, error) if late else ""
    if kind is dataclasses.KW_ONLY:
        return ""
    default = vars(cls).get(name, dataclasses.MISSING)
    if isinstance(default, dataclasses.Field):
        if not default.init:
            return "init=False: a record could not set it; write a property, or ClassVar[...] for a constant"
        default = default.default
    fault = type_fault(kind, names)
    if fault or default is dataclasses.MISSING or hasattr(default, "__get__"):  # the last: a slot, or a property
        return fault
    return _default_fault(default, kind, annotation)


def _default_fault(default: Any, kind: Any, annotation: Any) -> str:
    problem = misfit(default, kind)
    if problem and default is None:
        return f"its default: {problem}; write {_written(annotation)} | None"
    return f"its default: {problem}; mend it, or the type {_written(annotation)}" if problem else ""


def _unknown(annotation: Any, error: Exception) -> str:
    return (
        f"its type {_written(annotation)} is unknown when the file runs ({type(error).__name__}: {error}); allowed: "
        f"{ALLOWED}; import its name outside `if TYPE_CHECKING:`, and above the class"
    )


def _written(kind: Any) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    return str(kind).removeprefix("typing.")


def type_fault(kind: Any, names: Mapping[str, Any], inside: tuple[type, ...] = ()) -> str:
    """Returns why records cannot hold a type, in words, with what to write instead; "" where they can.

    `names` are those of the file that uses the type, and `inside` the dataclasses around it.
    """
    kind = unwrapped(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (str, int, float, bool, None, type(None)):
        return ""
    if origin is Literal:
        odd = [item for item in arguments if type(item) not in (str, int, bool, type(None))]
        return f"Literal[{odd[0]!r}]: allowed in a Literal are texts, whole numbers and bools" if odd else ""
    if origin in (Union, UnionType):
        faults = [type_fault(item, names, inside) for item in arguments]
        return next(filter(None, faults), "") or _ambiguity(arguments)
    if origin is tuple:
        return next(filter(None, (type_fault(item, names, inside) for item in arguments if item is not ...)), "")
    if isinstance(kind, type) and kind in ORIGINS:  # a variant, or a base of some
        lacks_tag = dataclasses.is_dataclass(kind) and "tag" not in vars(kind)
        return f"{kind.__name__} has no tag, so no record names it; write the base of its kind" if lacks_tag else ""
    if isinstance(kind, type) and issubclass(kind, Enum):
        texts = all(type(member.value) is str for member in kind)
        return "" if texts else f"the values of {kind.__name__} are no texts; allowed: {ALLOWED}; write Literal[...]"
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return "" if kind in inside else _nested_fault(kind, names, (*inside, kind))
    remedy = REMEDIES.get(origin or kind, CONSTANT) if isinstance(origin or kind, typing.Hashable) else CONSTANT
    return f"{_written(kind)} is no type of a setting; allowed: {ALLOWED}; {remedy}"


def _ambiguity(members: tuple[Any, ...]) -> str:
    """Returns the fault of a union that a record does not tell apart."""
    kinds = [unwrapped(member) for member in members]
    tables = [kind for kind in kinds if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and kind in ORIGINS)]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    texts = [kind for kind in kinds if kind is str or get_origin(kind) is Literal]
    for alike in (tables, [*enums, *texts] if enums else []):
        if len(alike) > 1:
            return (
                f"{' | '.join(map(_written, alike))}: a record does not tell these apart; allowed: {ALLOWED}; write "
                "one of them, or a field for each"
            )
    return ""


def _nested_fault(cls: type, names: Mapping[str, Any], inside: tuple[type, ...]) -> str:
    """Returns the fault of a dataclass within a setting; keeps the types of its fields for later."""
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{cls.__name__} is no frozen dataclass; write @dataclass(frozen=True) above it"
    pseudo = [f.name for f in cls.__dataclass_fields__.values() if "InitVar" in str(f.type)]  # type: ignore[attr-defined]
    for name in [*pseudo, *(field.name for field in dataclasses.fields(cls) if not field.init)]:
        return f"{cls.__name__}.{name}: a record could not set it; write a plain field, or a property"
    for base in cls.__mro__:
        try:
            types = _evaluated(_annotations(base), {**names, **names_of(base)})
        except Exception as error:  # noqa: BLE001 - whatever a text that is evaluated raises
            return f"{cls.__name__}: {_unknown(', '.join(map(str, _annotations(base).values())), error)}"
        for name, kind in types.items():
            if fault := type_fault(kind, names, inside):
                return f"{cls.__name__}.{name}: {fault}"
        _nested.setdefault(base, types) if types else None
    return ""
