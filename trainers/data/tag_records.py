"""Tags in a column of a table, from the scheme of the file to BIO. Imports no jax."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from adapters.cells import as_parts
from adapters.tag_schemes import InBio, in_bio
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
        cells = [as_parts(record.get(column), column, where) for where, record in kept]
    except InputError:
        yield from kept
        return
    read = in_bio([cell if all(isinstance(part, str) for part in cell) else ["?"] for cell in cells])
    if not isinstance(read, InBio) or read.scheme == "BIO":
        yield from kept
        return
    log.info("%s: the tags are in %s, read as BIO", name, read.scheme)
    for (where, record), tags in zip(kept, read.tags, strict=True):
        yield where, {**record, column: list(tags)}
