"""Tags in a column of a table, from the scheme of the file to BIO. Imports no jax."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from adapters.labels.cells import as_parts, listed
from adapters.labels.tag_schemes import InBio, in_bio
from backbone.errors import InputError
from trainers.data.formats.format import Record

log = logging.getLogger(__name__)


def records_in_bio(records: Iterable[Record], column: str, name: str) -> Iterator[Record]:
    """Yields the records of a file with the tags in `column` in BIO; the scheme is that of all of them, and is said.

    `name` is that of the file, for the log. Where the column holds anything but tags of one scheme, the records stay as
    they are, and the head's column names the row that is wrong.
    """
    kept = list(records)
    try:
        read = in_bio([_tags(record.get(column), column, where) for where, record in kept])
    except InputError:
        yield from kept
        return
    if not isinstance(read, InBio) or read.scheme == "BIO":
        yield from kept
        return
    log.info("%s: the tags are in %s, read as BIO", name, read.scheme)
    for (where, record), tags in zip(kept, read.tags, strict=True):
        yield where, {**record, column: _as_written(record[column], tags, column, where)}


def _tags(cell: Any, column: str, where: str) -> list[str]:
    """Returns the tags in a cell: a list, a list written out as text, or text with spaces between."""
    written = listed(cell, column, where) if isinstance(cell, str) else None
    parts = as_parts(cell if written is None else written, column, where)
    return parts if all(isinstance(part, str) for part in parts) else ["no text"]


def _as_written(cell: Any, tags: Sequence[str], column: str, where: str) -> Any:
    """Returns tags in the form of the cell that held them, by which the words beside them are read."""
    if not isinstance(cell, str):
        return list(tags)
    return " ".join(tags) if listed(cell, column, where) is None else json.dumps(list(tags))
