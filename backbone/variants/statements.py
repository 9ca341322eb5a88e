"""Checks of the class statement of a variant: parts that are missing, misspelt, or of another type. Imports no jax.

Python accepts a class whose parts do not fit its base, and the fault shows much later, or never: `suports = ...` states
nothing, `gamma = 2.0` is no field, and `column = OneLabel` is a class where an instance is needed. The base of a kind
states the types of its parts as class variables, so they are checked where the class is defined.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import re
import sys
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, NewType, Union, get_args, get_origin

from backbone.errors import nearest


def faults(cls: type, needs: Mapping[str, type]) -> Iterator[str]:
    """Yields the faults of a class statement, in words; `needs` are the parts it must define, by name.

    The value of `needs` is the base that asks for the part. The checks run before the decorator of a dataclass does.
    """
    missing = [name for name, base in needs.items() if _lacks(cls, name, base)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        yield f"{', '.join(missing)} {verb} missing; docs/extending.md says what each part holds"
    stated = class_variables(cls)
    for name, value in vars(cls).items():
        if name.startswith("_") or hasattr(value, "__get__"):
            continue
        if name in stated:
            if problem := misfit(value, stated[name]):
                yield f"{name}: {problem}"
        elif name not in inspect.get_annotations(cls) and (problem := _without_type(cls, name, value)):
            yield problem


def lacks_decorator(cls: type) -> str:
    """Returns the fault of a class with fields that is no frozen dataclass; "" where there is none."""
    fields = [name for name, kind in inspect.get_annotations(cls).items() if not is_class_variable(kind)]
    if not fields:
        return ""
    parameters = cls.__dict__.get("__dataclass_params__")
    if parameters is not None and parameters.frozen:
        return ""
    return (
        f"{fields[0]} is no field without @dataclass(frozen=True) above the class; "
        f"a constant is written {fields[0]}: ClassVar[...]"
    )


def _lacks(cls: type, name: str, base: type) -> bool:
    """Returns whether a class leaves a part as its base has it, which is nothing or a function that only raises."""
    part = inspect.getattr_static(cls, name, None)
    return part is None or part is inspect.getattr_static(base, name, None)


def _without_type(cls: type, name: str, value: Any) -> str:
    """Returns the fault of an attribute that looks like a setting; "" for one that a base defines."""
    kind = type(value).__name__
    for base in cls.__mro__[1:]:
        if dataclasses.is_dataclass(base) and name in {field.name for field in dataclasses.fields(base)}:
            return f"{name} = {value!r} has no type, so the default of {base.__name__} stays; write {name}: TYPE = ..."
        if name in vars(base):
            return ""
    close = difflib.get_close_matches(name, class_variables(cls), n=1, cutoff=0.75)
    meant = f"; nearest: {close[0]}" if close else ""
    return (
        f"{name} = {value!r} is no part of it, and no setting, since it has no type; write {name}: {kind} = ... "
        f"for a setting, or {name}: ClassVar[{kind}] = ... for a constant{meant}"
    )


def class_variables(cls: type) -> dict[str, object]:
    """Returns the types of the class variables that the bases of a class declare, by name."""
    return {name: kind for base in reversed(cls.__mro__[1:]) for name, kind in _declared(base).items()}


@functools.cache
def _declared(base: type) -> dict[str, object]:
    """Returns the types of the class variables that one class declares; those that cannot be evaluated are left out."""
    names = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
    declared = {}
    for name, kind in inspect.get_annotations(base).items():
        if is_class_variable(kind):
            try:
                evaluated = eval(kind, dict(names)) if isinstance(kind, str) else kind
            except Exception:  # noqa: BLE001 - a name for type checkers only, or of a script that has ended
                evaluated = ClassVar[Any]
            declared[name] = next(iter(get_args(evaluated)), Any)
    return declared


def is_class_variable(kind: Any) -> bool:
    """Returns whether an annotation, which may be text, says that a name is no field."""
    if isinstance(kind, str):
        return re.match(r"(\w+\.)?ClassVar\b", kind) is not None
    return kind is ClassVar or get_origin(kind) is ClassVar


def misfit(value: Any, kind: Any) -> str:
    """Returns why a value is none of a type, in words; "" where it is one, or where the type is not understood."""
    kind = unwrapped(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "" if value in arguments else f"{value!r} is unknown; {nearest(str(value), map(str, arguments))}"
    if origin in (Union, UnionType):
        problems = [misfit(value, one) for one in arguments]
        return "" if "" in problems else problems[0]
    if origin in (tuple, frozenset):
        if not isinstance(value, origin):
            return f"expected a {origin.__name__}, got {value!r}"
        if origin is tuple and arguments[1:] != (...,) and len(arguments) != len(value):
            return f"expected {len(arguments)} values, got {value!r}"
        of_items = arguments[:1] * len(value) if origin is frozenset or arguments[1:] == (...,) else arguments
        problems = [misfit(item, one) for item, one in zip(value, of_items, strict=False)]
        return next(filter(None, problems), "")
    known = origin or kind
    if not isinstance(known, type) or known is object:
        return ""
    if isinstance(value, type) and known is not type:
        return f"{value.__name__} is a class; write {value.__name__}(), an instance"
    if known in (int, float):
        return _misfit_number(value, known)
    return "" if isinstance(value, known) else f"expected {known.__name__}, got {value!r}"


def _misfit_number(value: Any, kind: type) -> str:
    """Returns why a value is no int or no float; numbers of NumPy are some, and a bool is none."""
    numbers_of = numbers.Real if kind is float else numbers.Integral
    if isinstance(value, bool) or not isinstance(value, numbers_of):
        return f"expected {kind.__name__}, got {value!r}"
    return "" if math.isfinite(value) else f"must be a finite number, got {value}"


def unwrapped(kind: Any) -> Any:
    """Returns the type that stands in `Annotated[T, ...]`, `Final[T]`, a `NewType` or a named alias."""
    while True:
        if get_origin(kind) in (Annotated, Final):
            kind = get_args(kind)[0]
        elif isinstance(kind, NewType):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":  # `type T = ...`, from Python 3.12 on
            kind = kind.__value__
        else:
            return kind
