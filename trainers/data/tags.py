"""Sentences of words with BIO tags, read strictly from files of a token a line. Imports no jax."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from adapters.tagging import OUTSIDE, fault
from backbone.errors import InputError

DOCUMENT = "-DOCSTART-"  # line of CoNLL files that parts documents
SPACES = re.compile(r"[ \t]+")  # between word and tag; a no-break space is part of its word


def sentences(path: Path, text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (file and line, words, tags) of each sentence: word first, tag last, an empty line between sentences.

    Raises InputError at the line of the first token that is not well formed.
    """
    words: list[str] = []
    tags: list[str] = []
    first_line = 1
    for number, line in enumerate(text.split("\n"), 1):
        fields = SPACES.split(line.strip(" \t\r"))
        if fields[0] in ("", DOCUMENT):
            if words:
                yield f"{path}:{first_line}", words, tags
            words, tags = [], []
            continue
        if len(fields) < 2:
            raise InputError(f"{path}:{number}: expected a word and its tag, got {fields[0]!r} alone")
        if problem := fault(fields[-1], tags[-1] if tags else OUTSIDE):
            raise InputError(f"{path}:{number}: {problem}")
        if not words:
            first_line = number
        words.append(fields[0])
        tags.append(fields[-1])
    if words:
        yield f"{path}:{first_line}", words, tags
