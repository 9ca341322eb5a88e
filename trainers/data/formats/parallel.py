"""Two files side by side: line N of one holds a text, line N of the other its label, as in tweet_eval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError
from backbone.texts import lines
from trainers.data.formats.format import Format, ReadSettings, Record


class Parallel(Format, tag="parallel"):
    """A file of texts and a file of labels, with as many lines."""

    files = ("texts", "labels")
    has_columns = False

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the text and label of each line."""
        texts, labels = map(Path, entries)
        left, right = (list(lines(settings.text_of(path))) for path in (texts, labels))
        if len(left) != len(right):
            raise InputError(f"{texts} has {len(left)} lines, {labels} has {len(right)}: they must be parallel")
        for (number, text), (_, label) in zip(left, right, strict=True):
            yield f"{texts}:{number}", {"text": text, "label": label.strip()}
