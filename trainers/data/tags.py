"""Sentences of words with BIO tags: read strictly, and laid out as labels of tokens.

A sentence is stored as its words joined by single spaces, with a tag for each. Label numbers stand at the
first sub-word of each word, `NO_TAG` everywhere else. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters.tagging import NO_TAG, OUTSIDE, fault
from backbone.buckets import TokenRow, bucket_of
from backbone.errors import InputError, nearest


def as_text(value: str | bytes, where: str) -> str:
    """Text that UTF-8 can hold; raises InputError for other bytes and for half a surrogate pair."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"{where}: {value[:40]!r} is not valid UTF-8: {error.reason}") from None
    return text


def parts_of(value: Any, column: str, where: str) -> list[Any]:
    """The words or tags in a column: a list, or text with spaces between."""
    if isinstance(value, bytes):
        value = as_text(value, f"{where}: {column}")
    if isinstance(value, str):
        return [part for part in value.split(" ") if part]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_text(part, f"{where}: {column}") if isinstance(part, bytes) else part for part in value]
    raise InputError(f"{where}: {column}: expected a list, or text with spaces, got {type(value).__name__}")


def check_sentence(words: Sequence[Any], tags: Sequence[str], where: str) -> None:
    """Raises InputError unless there is a well-formed tag for each word, and a word at all."""
    if len(words) != len(tags):
        raise InputError(f"{where}: {len(words)} words, but {len(tags)} tags")
    if not words:
        raise InputError(f"{where}: a sentence without words")
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word or " " in word or "\0" in word:
            raise InputError(f"{where}: word {number}: {word!r} is no word (text without spaces)")
        as_text(word, f"{where}: word {number}")
    for number, (tag, before) in enumerate(zip(tags, (OUTSIDE, *tags), strict=False), 1):
        if problem := fault(tag, before):
            raise InputError(f"{where}: word {number} ({words[number - 1]!r}): {problem}")


def tag_names(labels: Sequence[tuple[str, ...]], named: tuple[str, ...]) -> tuple[str, ...]:
    """The tag set: `named`, or `O` and the tags of the train rows, sorted; raises InputError if there is no entity."""
    found = {tag for row in labels for tag in row}
    if found <= {OUTSIDE}:
        raise InputError("data.label: no train row holds an entity; check data.label")
    return named or tuple(sorted(found | {OUTSIDE}))


def token_labels(
    tags: Sequence[tuple[str, ...]],
    places: Sequence[np.ndarray],
    rows: Sequence[TokenRow],
    names: Sequence[str],
    where: Sequence[str],
    lengths: Sequence[int],
) -> np.ndarray:
    """Label numbers int32 [N,T], T the longest row's bucket; raises InputError on an unknown tag."""
    number = {name: i for i, name in enumerate(names)}
    labels = np.full((len(rows), bucket_of(max(len(row) for row in rows), lengths)), NO_TAG, np.int32)
    for i, (row, first) in enumerate(zip(tags, places, strict=True)):
        for tag, place in zip(row, first, strict=True):
            if tag not in number:
                raise InputError(f"{where[i]}: the tag {tag!r} was never seen in training; {nearest(tag, names)}")
            if place >= 0:
                labels[i, place] = number[tag]
    return labels
