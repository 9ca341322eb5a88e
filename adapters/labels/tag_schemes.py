"""Schemes of tags, told from all sentences of a file together, and their way to BIO. Imports no jax.

A tag is `O` or a mark, a hyphen and a type. The schemes differ in their marks, and in what may follow what:

| scheme | an entity of one word, of three |
|---|---|
| BIO (IOB2) | `B`; `B I I` |
| IOB1 | `I`; `I I I`; the first is `B` right behind another entity of its type |
| IOE2 | `E`; `I I E` |
| IOE1 | `I`; `I I I`; the last is `E` right before another entity of its type |
| BILOU | `U`; `B I L` |
| IOBES | `S`; `B I E` |
| BMES | `S`; `B M E`, also `W` for one word |

A scheme is that of a file or of none: what no scheme allows is a fault of a word, never mended by itself.
Sources: Tjong Kim Sang and Veenstra 1999 (IOB1, IOB2, IOE1, IOE2); Ratinov and Roth 2009 (BILOU).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.labels.tagging import OUTSIDE, fault

Tags = Sequence[str]
MARKS_OF = {  # marks of the schemes that say where an entity ends
    "BILOU": "BILU",
    "IOBES": "BIES",
    "BMES": "BMESW",
}
OPENS, GOES_ON, ENDS, ALONE = "B", "IM", "LE", "USW"  # what the marks of these schemes say


@dataclass(frozen=True)
class TagFault:
    """The first tag that no scheme of the file's marks allows."""

    sentence: int  # number of its sentence, from 0
    word: int  # number of its word, from 0
    problem: str


@dataclass(frozen=True)
class InBio:
    """The sentences of a file in BIO."""

    scheme: str  # name of the scheme that the file is in
    tags: list[tuple[str, ...]]  # tags of each sentence


def in_bio(sentences: Sequence[Tags]) -> InBio | TagFault:
    """Returns the tags of all sentences of a file in BIO, or the first tag that is wrong."""
    marks = set()
    for number, tags in enumerate(sentences):
        for place, tag in enumerate(tags):
            if not is_tag(tag):
                return TagFault(number, place, f"{tag!r} is no BIO tag (O, B-TYPE or I-TYPE)")
            marks.add(tag.partition("-")[0])
    marks.discard(OUTSIDE)
    if marks <= {"B", "I"}:
        return _begun_by_b(sentences)
    if marks <= {"I", "E"}:
        return _ended_by_e(sentences)
    for scheme, known in MARKS_OF.items():
        if marks <= set(known):
            problem = _first(sentences, functools.partial(_bracket_fault, scheme))
            return problem or InBio(scheme, [tuple(map(_of_bracket, tags)) for tags in sentences])
    listed = ", ".join(sorted(marks))
    return _where(sentences, lambda tag: tag[:1] not in "BIO", f"the marks {listed} belong to no one scheme")


def is_tag(tag: str) -> bool:
    """Returns whether a text is `O`, or a mark of some scheme, a hyphen and a type."""
    mark, _, kind = tag.partition("-")
    return tag == OUTSIDE or (mark in tuple("BIESMLUW") and bool(kind))


def _begun_by_b(sentences: Sequence[Tags]) -> InBio | TagFault:
    """Reads BIO, and IOB1 where every `B` stands behind an entity of its type."""
    problem = _first(sentences, lambda tags, place: fault(tags[place], tags[place - 1] if place else OUTSIDE))
    if problem is None:
        return InBio("BIO", [tuple(tags) for tags in sentences])
    if _first(sentences, _iob1_fault):
        return problem
    return InBio("IOB1", [_opened(tags, lambda tags, place: tags[place][0] == "B") for tags in sentences])


def _ended_by_e(sentences: Sequence[Tags]) -> InBio | TagFault:
    """Reads IOE2, and IOE1 where every `E` stands before an entity of its type."""
    problem = _first(sentences, _ioe2_fault)
    if problem and _first(sentences, _ioe1_fault):
        return problem
    scheme = "IOE1" if problem else "IOE2"
    return InBio(scheme, [_opened(tags, lambda tags, place: tags[place - 1][0] == "E") for tags in sentences])


def _opened(tags: Tags, opens: Callable[[Tags, int], bool]) -> tuple[str, ...]:
    """Returns the tags in BIO: an entity opens at another type, and where `opens` says so."""
    return tuple(
        tag if tag == OUTSIDE else f"{'I' if _goes_on(tags, place) and not opens(tags, place) else 'B'}-{_kind(tag)}"
        for place, tag in enumerate(tags)
    )


def _goes_on(tags: Tags, place: int) -> bool:
    """Returns whether the word before is of the same type."""
    return place > 0 and tags[place - 1] != OUTSIDE and _kind(tags[place - 1]) == _kind(tags[place])


def _followed(tags: Tags, place: int) -> bool:
    """Returns whether the word behind is of the same type."""
    return place + 1 < len(tags) and tags[place] != OUTSIDE and _goes_on(tags, place + 1)


def _kind(tag: str) -> str:
    return tag.partition("-")[2]


def _iob1_fault(tags: Tags, place: int) -> str:
    return "" if tags[place][0] != "B" or _goes_on(tags, place) else f"{tags[place]!r} opens what `I` would open"


def _ioe2_fault(tags: Tags, place: int) -> str:
    tag = tags[place]
    return "" if tag[0] != "I" or _followed(tags, place) else f"{tag!r} ends an entity: it ends with 'E-{_kind(tag)}'"


def _ioe1_fault(tags: Tags, place: int) -> str:
    return "" if tags[place][0] != "E" or _followed(tags, place) else f"{tags[place]!r} ends what `I` would end"


def _bracket_fault(scheme: str, tags: Tags, place: int) -> str:
    """Returns what is wrong with a tag of a scheme whose marks say where an entity begins and ends."""
    tag, before = tags[place], tags[place - 1] if place else OUTSIDE
    inside = tag[0] in GOES_ON + ENDS
    open_before = before[0] in OPENS + GOES_ON
    if inside and not (open_before and _kind(before) == _kind(tag)):
        return f"{tag!r} continues nothing: in {scheme} an entity opens with 'B-{_kind(tag)}'"
    if open_before and not inside:
        return f"{tag!r} comes before the end of the entity that is of {_kind(before)!r} ({scheme})"
    if tag[0] in OPENS + GOES_ON and place == len(tags) - 1:
        return f"{tag!r} is the last of a sentence, but its entity goes on ({scheme})"
    return ""


def _of_bracket(tag: str) -> str:
    if tag == OUTSIDE:
        return tag
    return f"{'B' if tag[0] in OPENS + ALONE else 'I'}-{_kind(tag)}"


def _first(sentences: Sequence[Tags], problem_of: Callable[[Tags, int], str]) -> TagFault | None:
    """Returns the first fault, where `problem_of` says what is wrong with a word."""
    for number, tags in enumerate(sentences):
        for place in range(len(tags)):
            if problem := problem_of(tags, place):
                return TagFault(number, place, problem)
    return None


def _where(sentences: Sequence[Tags], of: Callable[[str], bool], problem: str) -> TagFault:
    """Returns a problem of the whole file, at the first tag that shows it."""
    places = ((number, place) for number, tags in enumerate(sentences) for place, tag in enumerate(tags) if of(tag))
    return TagFault(*next(places), problem)
