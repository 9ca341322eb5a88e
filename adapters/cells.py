"""Cells of a column, read strictly: text, numbers, lists. Imports no jax.

Every function raises InputError that names the place (`where`: file and line) and the column.
"""

from __future__ import annotations

import math
from typing import Any

from backbone.errors import InputError


def as_text(value: str | bytes, where: str) -> str:
    """Returns text that UTF-8 can hold; raises InputError for other bytes and for half a surrogate pair."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"{where}: {value[:40]!r} is not valid UTF-8: {error.reason}") from None
    return text


def as_number(value: Any, column: str, where: str) -> float:
    """Returns a finite number; raises InputError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {column}: {value!r} is not a number")
    return number


def as_parts(value: Any, column: str, where: str) -> list[Any]:
    """Returns the words or tags in a cell: a list, or text with spaces between."""
    if isinstance(value, bytes):
        value = as_text(value, f"{where}: {column}")
    if isinstance(value, str):
        return [part for part in value.split(" ") if part]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_text(part, f"{where}: {column}") if isinstance(part, bytes) else part for part in value]
    raise InputError(f"{where}: {column}: expected a list, or text with spaces, got {type(value).__name__}")
