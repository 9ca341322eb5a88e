"""Rows in one JSON document: a list of objects, or an object of columns, as pandas and data sets' hubs write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.texts import lines, parse_json
from trainers.data.formats.format import Format, ReadSettings, Record


class JsonRows(Format, tag="json"):
    """A list of objects; `{"data": [...]}` around one; columns by name; or, by its lines, JSON Lines."""

    suffixes = (".json",)

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the objects, numbered from 1; those of JSON Lines by their lines. They may differ in their fields."""
        path = Path(entries[0])
        text = settings.text_of(path)
        filled = [(number, line) for number, line in lines(text) if line.strip()]
        if len(filled) > 1 and all(line.strip()[0] == "{" and line.strip()[-1] == "}" for _, line in filled):
            for number, line in filled:
                yield f"{path}:{number}", settings.json_of(line, f"{path}:{number}")
            return
        listed = text.lstrip().startswith("[")
        document = settings.json_of(text, str(path)) if listed else parse_json(text, str(path))
        for number, record in enumerate(_rows(document, path), 1):
            if not isinstance(record, dict):
                raise InputError(f"{path}#{number}: expected a JSON object, got {type(record).__name__}")
            yield f"{path}#{number}", record


def _rows(document: Any, path: Path) -> list[Any]:
    """Returns the rows of a document; raises InputError for one that holds none, or more than one list of them."""
    if isinstance(document, list):
        return document
    fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
    lists = {name: value for name, value in fields.items() if _holds_objects(value)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    if len(lists) > 1:
        raise InputError(f"{path}: holds several lists of rows ({', '.join(lists)}); write each into a file of its own")
    if columns := _columns(fields):
        return columns
    raise InputError(f"{path}: expected a list of JSON objects, or an object of columns of one length")


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _columns(fields: Mapping[str, Any]) -> list[Any]:
    """Returns the rows of columns, which are lists, or objects by one index; [] for other fields."""
    columns = {name: value for name, value in fields.items() if isinstance(value, (list, dict))}
    if not fields or len(columns) < len(fields):
        return []
    first = next(iter(columns.values()))
    if isinstance(first, list):
        fit = all(isinstance(column, list) and len(column) == len(first) for column in columns.values())
        cells = list(columns.values())
    else:
        fit = all(isinstance(column, dict) and column.keys() == first.keys() for column in columns.values())
        cells = [[column[key] for key in first] for column in columns.values()] if fit else []
    return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)] if fit else []
