"""Several splits in one JSON file: an object whose fields hold lists of [text, label], as in CLINC150."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError, nearest
from backbone.files import sha256_file
from backbone.texts import parse_json
from trainers.data.formats.format import Format, ReadSettings, Record


class JsonLists(Format, tag="json_lists"):
    """An entry is `FILE#LIST`, LIST the field of the object."""

    has_columns = False

    def path(self, entry: str) -> Path:
        """Returns the file, without the name of the list."""
        return Path(entry.partition("#")[0])

    def identity(self, entry: str, split: str) -> str:
        """Returns the suffix, the name of the list and the hash of the file."""
        path = self.path(entry)
        return f"{path.suffix}#{entry.partition('#')[2]}{sha256_file(path)}"

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the items of the list, numbered from 1."""
        path, name = self.path(entries[0]), entries[0].partition("#")[2]
        lists = parse_json(settings.text_of(path), str(path), (name,))
        known = [key for key, value in lists.items() if isinstance(value, list)] if isinstance(lists, dict) else []
        if name not in known:
            raise InputError(
                f"data.{settings.split}: {path}: has no list {name!r} (json_lists reads FILE#LIST); "
                f"{nearest(name, known)}"
            )
        for number, item in enumerate(lists[name], 1):
            where = f"{path}#{name}:{number}"
            if not isinstance(item, list) or len(item) != 2:
                raise InputError(f"{where}: expected [text, label], got {json.dumps(item)[:60]}")
            yield where, {"text": item[0], "label": item[1]}
