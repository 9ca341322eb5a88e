"""A row a line, the label in front of the text, as in TREC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError
from backbone.texts import lines
from trainers.data.formats.format import Format, ReadSettings, Record


class LabelText(Format, tag="label_text"):
    """Lines of `LABEL TEXT`: the label ends at the first space."""

    has_columns = False

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the text and label of each line."""
        path = Path(entries[0])
        for number, line in lines(settings.text_of(path)):
            label, space, text = line.partition(" ")
            if not space:
                raise InputError(f"{path}:{number}: expected LABEL, a space and the text")
            yield f"{path}:{number}", {"text": text, "label": label}
