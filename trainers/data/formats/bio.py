"""Sentences with a tag for each word, a word a line, as in CoNLL-2003 and CoNLL-U.

Columns are found by `trainers.data.token_lines`, schemes other than BIO by `adapters.labels.tag_schemes`. Both are
decided for a whole file, never line by line, and what is not usual is said in the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters.labels.tag_schemes import TagFault, in_bio
from adapters.labels.tagging import OUTSIDE
from backbone.compression import plain_name
from backbone.errors import InputError
from trainers.data.formats.format import Format, ReadSettings, Record
from trainers.data.token_lines import read_tokens

log = logging.getLogger(__name__)

BLANKS = re.compile(r"[ \t]+")  # what parts a word in two; a no-break space is part of its word


class Bio(Format, tag="bio"):
    """Word first and tag last in a line, or as `data.word_column` and `data.tag_column` say.

    An empty line stands between two sentences. A word with blanks in it is read as several, of one entity.
    """

    suffixes = (".bio", ".conll", ".conllu", ".iob", ".iob2")
    has_columns = False
    labels_per = "word"
    reads = ("delimiter", "word_column", "tag_column")

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the words and the BIO tags of each sentence, two lists; a sentence stands at its first line.

        Raises InputError at the line of the first token that is not well formed.
        """
        path = Path(entries[0])
        conllu = plain_name(path).lower().endswith(".conllu")
        file = read_tokens(settings.text_of(path), settings, str(path), conllu=conllu)
        read = in_bio([sentence.tags for sentence in file.sentences])
        if isinstance(read, TagFault):
            raise InputError(f"{path}:{file.sentences[read.sentence].lines[read.word]}: {read.problem}")
        notes = list(file.notes)
        if read.scheme != "BIO":
            notes.append(f"the tags are in {read.scheme}, read as BIO")
        parted = sum(bool(BLANKS.search(word)) for sentence in file.sentences for word in sentence.words)
        if parted:
            notes.append(f"{parted} words hold blanks, and are read as several words of one entity")
        if notes:
            log.info("%s: %s", path, "; ".join(notes))
        for sentence, tags in zip(file.sentences, read.tags, strict=True):
            words, labels = _parted(sentence.words, tags)
            yield f"{path}:{sentence.lines[0]}", {"text": words, "label": labels}


def _parted(words: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns words without blanks, and the tag of each."""
    parts, labels = [], []
    for word, tag in zip(words, tags, strict=True):
        pieces = BLANKS.split(word)
        inside = tag if tag == OUTSIDE else f"I-{tag.partition('-')[2]}"
        parts += pieces
        labels += [tag, *[inside] * (len(pieces) - 1)]
    return parts, labels
