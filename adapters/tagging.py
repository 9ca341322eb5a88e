"""BIO tags: what opens an entity, and the entities of a sentence.

A tag is `O`, `B-TYPE` or `I-TYPE`. Data must be well formed; predictions need not be, and there an `I-X` that
continues nothing begins an entity, as in conlleval (Tjong Kim Sang & Buchholz 2000) and `seqeval`.
Imports no jax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "O"
NO_TAG = -1  # label of a token that is not the first sub-word of a word


@dataclass(frozen=True)
class Entity:
    """Some words of a sentence that belong together."""

    type: str
    start: int  # number of its first word
    end: int  # number of the word after its last
    text: str  # its words, joined by spaces


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word after the last) of each entity, in order."""
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == OUTSIDE:
            continue
        if mark == "I" and found and found[-1][0] == kind and found[-1][2] == place:
            found[-1] = (kind, found[-1][1], place + 1)
        else:
            found.append((kind, place, place + 1))
    return found


def entities(words: Sequence[str], tags: Sequence[str]) -> tuple[Entity, ...]:
    """The entities of a sentence."""
    return tuple(Entity(kind, start, end, " ".join(words[start:end])) for kind, start, end in spans(tags))


def fault(tag: str, before: str) -> str:
    """What is wrong with `tag` after the tag `before`; empty if nothing is."""
    mark, dash, kind = tag.partition("-")
    if tag != OUTSIDE and (mark not in ("B", "I") or not dash or not kind):
        return f"{tag!r} is no BIO tag (O, B-TYPE or I-TYPE)"
    if mark == "I" and before not in (f"B-{kind}", f"I-{kind}"):
        return f"{tag!r} continues nothing: an entity opens with 'B-{kind}'"
    return ""
