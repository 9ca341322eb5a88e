"""The energy of one answer, from the JSON that `topgraft profile GRAFT --json` prints. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backbone.errors import InputError, shown
from backbone.records import decode
from backbone.texts import lines, load_json, read_text
from metering.energy import Quality


@dataclass(frozen=True)
class Query:
    """The energy of one answer, from a profile."""

    joules: float  # energy of a batch of one row
    quality: str
    tokens: int  # length of the row
    p50_ms: float


@dataclass(frozen=True)
class _Shape:
    """What a document reads of one batch shape of a profile."""

    batch: int
    tokens: int
    joules_per_row: float | None
    joules_quality: Quality
    p50_ms: float


def read_query(file: Path, content_id: str) -> Query | None:
    """Returns the energy of one row of middle length; None where the profile has no figure of it."""
    try:
        text = [line for _, line in lines(read_text(file)) if line.strip()]
        values = load_json(text[-1] if text else "")
        of, shapes = values["content_id"], [_shape_of(values["shapes"], n) for n in range(len(values["shapes"]))]
        single = sorted((shape for shape in shapes if shape.batch == 1), key=lambda one: one.tokens)
        shape = single[len(single) // 2]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"--profile: {file}: no profile ({reason}); `topgraft profile GRAFT --json` prints one"
        ) from error
    if of != content_id:
        raise InputError(f"--profile: {file} is of the graft {shown(of)}, not of {content_id}; profile this graft")
    if shape.joules_per_row is None:
        return None
    return Query(shape.joules_per_row, shape.joules_quality, shape.tokens, shape.p50_ms)


def _shape_of(shapes: Any, number: int) -> _Shape:
    """Returns a shape of a profile; raises InputError for what is no measurement."""
    where, names = f"shapes[{number}]", [field.name for field in fields(_Shape)]
    shape = decode(_Shape, {name: shapes[number][name] for name in names}, where)
    for name in names:
        value = getattr(shape, name)
        if not isinstance(value, str) and value is not None and value < 0:
            raise InputError(f"{where}.{name}: must not be negative, got {value!r}")
    return shape
