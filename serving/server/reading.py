"""The checks that readers of requests share: a JSON object of known fields, with texts and tasks within the limits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError, nearest
from serving.server.limits import Limits


@dataclass(frozen=True)
class Question:
    """The content of a request: every task answers every text."""

    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: float  # seconds until the answer is worth nothing
    outputs: tuple[str, ...] = ()  # names of the outputs to return; empty: all that the graft has
    id: str | None = None  # name that the client gave the request, returned in the response


def json_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object; raises InputError."""
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError("the body must be a JSON object")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def only_fields(content: dict[str, Any], known: Sequence[str], where: str = "") -> None:
    """Raises InputError, with the nearest names, for a field that is not `known`; `where` comes before its name."""
    for key in content:
        if key not in known:
            raise InputError(f"{where}{key}: unknown; {nearest(key, known)}")


def strings(value: Any, where: str) -> tuple[str, ...]:
    """Returns a list of strings that is not empty; raises InputError naming `where`."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: expected a list of strings, not empty")
    return tuple(value)


def seconds(timeout_ms: Any, limits: Limits) -> float:
    """Returns the seconds of a `timeout_ms`, at most those of the limits; raises InputError."""
    if timeout_ms is None:
        return limits.seconds
    number = isinstance(timeout_ms, (int, float)) and not isinstance(timeout_ms, bool)
    if not number or not (math.isfinite(timeout_ms) and timeout_ms > 0):
        raise InputError(f"timeout_ms: expected a positive number, got {timeout_ms!r}")
    return min(float(timeout_ms) / 1e3, limits.seconds)


def within(question: Question, limits: Limits) -> Question:
    """Returns the question; raises InputError for a limit that it exceeds, or a task that it names twice."""
    for field, count, largest in (
        ("inputs", len(question.texts), limits.inputs),
        ("tasks", len(question.tasks), limits.tasks),
    ):
        if count > largest:
            raise InputError(f"{field}: {count} exceed the limit of {largest}; send several requests")
    for number, text in enumerate(question.texts):
        if len(text) > limits.characters:
            raise InputError(f"inputs[{number}]: {len(text)} characters exceed the limit of {limits.characters}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(f"inputs[{number}]: holds a lone surrogate, which is no text") from None
    if len(set(question.tasks)) != len(question.tasks):
        raise InputError("tasks: a task is named twice")
    return question
