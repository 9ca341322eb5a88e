"""The checks that readers of requests share: a JSON object of known fields, with texts and tasks within the limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError, nearest, shown
from backbone.texts import load_json
from serving.server.limits import Limits


@dataclass(frozen=True)
class Question:
    """The content of a request: every task answers every text."""

    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: float  # seconds until the answer is worth nothing
    outputs: tuple[str, ...] = ()  # names of the outputs to return; empty: all that the graft has
    id: str | None = None  # name that the client gave the request, returned in the response


BINARY_HEADER = "inference-header-content-length"  # header of a body that holds tensors behind its JSON
BINARY = (  # parameters of the Open Inference Protocol's extensions that are not spoken here
    "binary_data",
    "binary_data_size",
    "binary_data_output",
    "classification",
    "shared_memory_region",
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON's escape of half a surrogate pair, or of a whole one


class UnsupportedMedia(InputError):
    """A body in an encoding that is not read."""


def only_json(headers: Mapping[str, str]) -> None:
    """Raises InputError, by name, for a body that is not JSON alone: packed, or with binary tensors behind it."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMedia(f"Content-Encoding: {shown(coding)} is not read; send the body unpacked")
    if BINARY_HEADER in headers:
        raise UnsupportedMedia(
            "Inference-Header-Content-Length: the binary tensor extension is not spoken here; send tensors as JSON "
            "(tritonclient: set_data_from_numpy(..., binary_data=False))"
        )


def json_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object of Unicode text; raises InputError."""
    try:
        text = body.decode(json.detect_encoding(body))
        content = load_json(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError("the body must be a JSON object")
    if _SURROGATE.search(text) and (where := next(_lone_surrogates(content, ""), None)) is not None:
        raise InputError(f"{where[:100] or 'the name of a field'}: holds a lone surrogate, which is no text")
    return content


def _lone_surrogates(value: Any, where: str) -> Iterator[str]:
    """Yields the place of each string that is no Unicode text; the parser has bounded the depth."""
    if isinstance(value, str) and not is_text(value):
        yield where
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _lone_surrogates(item, f"{where}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not is_text(key):
                yield where
            yield from _lone_surrogates(item, f"{where}.{key}" if where else key)


def is_text(text: str) -> bool:
    """Returns whether every character is one of Unicode: none is half a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def only_fields(content: dict[str, Any], known: Sequence[str], where: str = "") -> None:
    """Raises InputError, with the nearest names, for a field that is not `known`; `where` comes before its name."""
    for key in content:
        if key not in known:
            name = key if len(key) <= 60 and key.isprintable() else shown(key)
            raise InputError(f"{where}{name}: unknown; {nearest(key, known)}")


def optional_object(value: Any, where: str, known: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns an optional object, empty where it is null; raises InputError.

    Fields that are not `known` are refused; None takes all but extensions of the protocol that are not spoken here.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object")
    for name in BINARY:
        if value.get(name) not in (None, False):
            raise InputError(f"{where}.{name}: this extension of the protocol is not spoken here; use JSON tensors")
    if known is not None:
        only_fields({name: item for name, item in value.items() if name not in BINARY}, known, f"{where}.")
    return value


def strings(value: Any, where: str) -> tuple[str, ...]:
    """Returns a list of strings that is not empty; raises InputError naming `where`."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: expected a list of strings, not empty")
    return tuple(value)


def seconds(timeout_ms: Any, limits: Limits) -> float:
    """Returns the seconds of a `timeout_ms`, at most those of the limits; raises InputError."""
    if timeout_ms is None:
        return limits.seconds
    try:
        a_number = isinstance(timeout_ms, (int, float)) and not isinstance(timeout_ms, bool)
        number = float(timeout_ms) / 1e3 if a_number else 0.0
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):  # the smallest numbers are no seconds at all
        raise InputError(f"timeout_ms: expected a positive number, got {shown(timeout_ms)}")
    return min(number, limits.seconds)


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
        if not is_text(text):
            raise InputError(f"inputs[{number}]: holds a lone surrogate, which is no text")
    if len(set(question.tasks)) != len(question.tasks):
        raise InputError("tasks: a task is named twice")
    return question
