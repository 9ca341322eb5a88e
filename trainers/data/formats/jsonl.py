"""JSON Lines: an object a line, its fields are the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError
from backbone.texts import lines
from trainers.data.formats.format import Format, ReadSettings, Record


class Jsonl(Format, tag="jsonl"):
    """A JSON object a line; empty lines are passed over."""

    suffixes = (".jsonl", ".ndjson")

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the object of each line. Objects may differ in their fields."""
        path = Path(entries[0])
        for number, line in lines(settings.text_of(path)):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            record = settings.json_of(line, where)
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
            yield where, record
