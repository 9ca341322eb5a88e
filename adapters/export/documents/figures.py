"""Figures as documents write them: every one is a number, so neither NaN nor infinity reaches a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from backbone.errors import InputError


def figure(value: float) -> str:
    """Returns a figure as a document writes it; raises InputError for one that is beyond what a number holds."""
    if not math.isfinite(value):
        raise InputError(
            f"a figure of the document is {value!r}, beyond what a number holds; give smaller ones with "
            "--carbon-intensity, --embodied-training, --embodied-query and --profile"
        )
    return repr(value)


def json_of(values: object) -> str:
    """Returns a document as JSON; raises InputError for a figure that JSON has no number for."""
    for value in _numbers(values):
        figure(value)
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _numbers(values: object) -> Iterator[float]:
    """Yields the numbers with a fraction in JSON values."""
    if isinstance(values, float):
        yield values
    elif isinstance(values, Mapping):
        yield from _numbers(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _numbers(value)
