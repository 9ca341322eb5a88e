"""Sentences with a BIO tag for each word, a word a line, as in CoNLL-2003."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters.tagging import OUTSIDE, fault
from backbone.errors import InputError
from trainers.data.formats.format import Format, ReadSettings, Record

DOCUMENT = "-DOCSTART-"  # first word of a line between two documents
SPACES = re.compile(r"[ \t]+")  # between word and tag; a no-break space is part of its word


class Bio(Format, tag="bio"):
    """Word first and tag last in a line, an empty line between sentences; columns between them are passed over."""

    suffixes = (".bio", ".conll")
    has_columns = False
    labels_per = "word"

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the words and the tags of each sentence, two lists; a sentence stands at its first line.

        Raises InputError at the line of the first token that is not well formed.
        """
        path = Path(entries[0])
        words: list[str] = []
        tags: list[str] = []
        first = 1  # line of the sentence's first word
        for number, line in enumerate(settings.text_of(path).split("\n"), 1):
            fields = SPACES.split(line.strip(" \t\r"))
            if fields[0] in ("", DOCUMENT):
                if words:
                    yield f"{path}:{first}", {"text": words, "label": tags}
                words, tags = [], []
                continue
            if len(fields) < 2:
                raise InputError(f"{path}:{number}: expected a word and its tag, got {fields[0]!r} alone")
            if problem := fault(fields[-1], tags[-1] if tags else OUTSIDE):
                raise InputError(f"{path}:{number}: {problem}")
            if not words:
                first = number
            words.append(fields[0])
            tags.append(fields[-1])
        if words:
            yield f"{path}:{first}", {"text": words, "label": tags}
