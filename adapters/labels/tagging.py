"""BIO tags: what opens an entity, and the entities of a sentence. Imports no jax.

A tag is `O`, `B-TYPE` or `I-TYPE`. Data must be well formed. Predictions need not be: there an `I-X` that continues
nothing begins an entity, as in conlleval (Tjong Kim Sang & Buchholz 2000) and `seqeval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.labels.cells import as_text
from backbone.errors import InputError

OUTSIDE = "O"  # tag of a word in no entity
NO_TAG = -1  # label of a token that is not the first sub-word of a word


@dataclass(frozen=True)
class Entity:
    """Words of a sentence that belong together."""

    type: str
    start: int  # number of its first word
    end: int  # number of the word after its last
    text: str  # its words, joined by spaces


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns (type, first word, word after the last) of each entity, in order."""
    places: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == OUTSIDE:
            continue
        if mark == "I" and places and places[-1][0] == kind and places[-1][2] == place:
            places[-1] = (kind, places[-1][1], place + 1)
        else:
            places.append((kind, place, place + 1))
    return places


def entities(words: Sequence[str], tags: Sequence[str]) -> tuple[Entity, ...]:
    """Returns the entities of a sentence."""
    return tuple(Entity(kind, start, end, " ".join(words[start:end])) for kind, start, end in spans(tags))


def fault(tag: str, before: str) -> str:
    """Returns what is wrong with `tag` after the tag `before`; empty if nothing is."""
    mark, dash, kind = tag.partition("-")
    if tag != OUTSIDE and (mark not in ("B", "I") or not dash or not kind):
        remedy = "; the tags of numbers are named, in their order, in data.label_names" if tag.isdecimal() else ""
        return f"{tag!r} is no BIO tag (O, B-TYPE or I-TYPE){remedy}"
    if mark == "I" and before not in (f"B-{kind}", f"I-{kind}"):
        return f"{tag!r} continues nothing: an entity opens with 'B-{kind}'"
    return ""


def not_bio(names: Sequence[str]) -> list[str]:
    """Returns the names that no BIO tag has, wherever it stands."""
    return [name for name in names if fault(name, f"B-{name[2:]}")]


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
