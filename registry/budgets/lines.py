"""The lines of a TOML file on which its keys stand, so that a message can name them. `tomllib` does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]  # keys from the root, with the number of an entry of an array of tables


def lines_of(text: str) -> dict[Path, int]:
    """Returns the line, from 1, of every table and key of valid TOML; the first one that names a table counts."""
    lines: dict[Path, int] = {}
    table: Path = ()
    counts: dict[Path, int] = {}
    for number, statement in _statements(text):
        values = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _numbered(_header(values), counts, is_array=statement.lstrip().startswith("[["))
            lines.setdefault(table, number)
            continue
        for path in _paths(values):
            lines.setdefault((*table, *path), number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yields each header or key with its value, which may go over several lines, and the number of its first line."""
    lines, start = text.splitlines(), 0
    while start < len(lines):
        for end in range(start + 1, len(lines) + 1):
            statement = "\n".join(lines[start:end])
            try:
                holds = bool(tomllib.loads(statement))
            except tomllib.TOMLDecodeError:
                continue
            if holds:
                yield start + 1, statement
            break
        else:
            return
        start = end


def _header(values: Any) -> tuple[str, ...]:
    """Returns the keys of a header, which parses to tables in each other."""
    keys: list[str] = []
    while values:
        (key, inner), *_ = values.items()
        keys.append(key)
        values = inner[0] if isinstance(inner, list) else inner
    return tuple(keys)


def _numbered(keys: tuple[str, ...], counts: dict[Path, int], *, is_array: bool) -> Path:
    """Returns the path of a header with the numbers of the entries of arrays that it lies in."""
    path: Path = ()
    for place, key in enumerate(keys):
        path = (*path, key)
        if is_array and place == len(keys) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _paths(values: Mapping[str, Any], prefix: Path = ()) -> Iterator[Path]:
    """Yields the path of each table and key."""
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, key))
