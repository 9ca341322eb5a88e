"""Schemes of tags: each is written from entities by its definition, and read back as BIO."""

from __future__ import annotations

import random

import pytest

from adapters.labels.tag_schemes import InBio, TagFault, in_bio

SCHEMES = ("BIO", "IOB1", "IOE2", "IOE1", "BILOU", "IOBES", "BMES")
LONG = {"BILOU": "BILU", "IOBES": "BIES", "BMES": "BMES"}  # first, inner, last and only word of an entity


def tags_of(entities: list[tuple[int, int, str]], size: int, scheme: str) -> tuple[str, ...]:
    """Returns the tags of entities (start, end, type) by the definition of a scheme."""
    tags = ["O"] * size
    for number, (start, end, kind) in enumerate(entities):
        before = number and entities[number - 1][1:] == (start, kind)
        after = number + 1 < len(entities) and entities[number + 1][::2] == (end, kind)
        marks = ["I"] * (end - start)
        if scheme == "BIO" or (scheme == "IOB1" and before):
            marks[0] = "B"
        if scheme == "IOE2" or (scheme == "IOE1" and after):
            marks[-1] = "E"
        if scheme in LONG:
            first, inner, last, only = LONG[scheme]
            marks = [first, *[inner] * (end - start - 2), last] if end - start > 1 else [only]
        tags[start:end] = [f"{mark}-{kind}" for mark in marks]
    return tuple(tags)


def sentences(seed: int) -> list[tuple[list[tuple[int, int, str]], int]]:
    """Draws entities in sentences; the first has two neighbours of one type, and one of a single word."""
    draw = random.Random(seed)
    drawn = [([(0, 2, "x-y"), (2, 5, "x-y"), (6, 7, "z")], 8)]
    for _ in range(6):
        size, place, entities = draw.randint(1, 12), 0, []
        while place < size:
            end = min(size, place + draw.randint(1, 4))
            if draw.random() < 0.6:
                entities.append((place, end, draw.choice(("x-y", "z"))))
            place = end
        drawn.append((entities, size))
    return drawn


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_told_and_read_as_bio(scheme):
    for seed in range(40):
        drawn = sentences(seed)
        read = in_bio([tags_of(entities, size, scheme) for entities, size in drawn])
        assert isinstance(read, InBio)
        assert read.scheme == scheme
        assert read.tags == [tags_of(entities, size, "BIO") for entities, size in drawn]


@pytest.mark.parametrize(
    ("file", "place", "problem"),
    [
        (["O B-x I-x", "O I-x"], (1, 1), "'I-x' continues nothing: an entity opens with 'B-x'"),
        (["B-x I-y"], (0, 1), "'I-y' continues nothing"),
        (["B-x L-x U-y", "B-x O"], (1, 0), None),
        (["B-x L-x", "O L-x"], (1, 1), "'L-x' continues nothing: in BILOU an entity opens with 'B-x'"),
        (["B-x E-y"], (0, 1), "'E-y' continues nothing: in IOBES"),
        (["S-x", "B-x I-x O"], (1, 2), "'O' comes before the end of the entity that is of 'x' (IOBES)"),
        (["U-x B-x"], (0, 1), "'B-x' is the last of a sentence, but its entity goes on (BILOU)"),
        (["B-x L-x", "B-x I-x"], (1, 1), "'I-x' is the last of a sentence, but its entity goes on (BILOU)"),
        (["I-x E-x", "I-x O"], (1, 0), "'I-x' ends an entity: it ends with 'E-x'"),
        (["B-x L-x", "S-y"], (0, 1), "the marks B, L, S belong to no one scheme"),
        (["O X"], (0, 1), "'X' is no BIO tag"),
        (["O B-"], (0, 1), "'B-' is no BIO tag"),
    ],
)
def test_what_no_scheme_allows_is_a_fault_of_a_word(file, place, problem):
    fault = in_bio([tags.split() for tags in file])
    assert isinstance(fault, TagFault)
    if problem is not None:
        assert (fault.sentence, fault.word) == place
        assert fault.problem.startswith(problem)


def test_a_file_without_entities_is_in_bio():
    assert in_bio([("O", "O"), ("O",)]) == InBio("BIO", [("O", "O"), ("O",)])
    assert in_bio([]) == InBio("BIO", [])
