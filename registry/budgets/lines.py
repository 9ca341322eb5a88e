"""The values of a TOML file, and the lines on which its keys stand, so that a message can name them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from backbone.errors import InputError

Path = tuple[str | int, ...]  # keys from the root, with the number of an entry of an array of tables
MAX_KEYS = 8  # keys of a path; what lies deeper has the line of the table above it
TOKEN = re.compile(  # what may hold a line end or a bracket that is none, a bracket, or a line end
    r'"""(?:\\.|[^\\])*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'|#[^\n]*|[\[\]{}\n]", re.DOTALL
)


def parse_toml(text: str, where: str) -> tuple[Mapping[str, Any], dict[Path, int]]:
    """Returns the values of a TOML text and the lines of its keys.

    Raises InputError with file and line for any other text, for a number of too many digits, and for too deep nesting.
    """
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), lines_of(text)
    except (ValueError, RecursionError) as error:
        place = re.search(r"at line (\d+)", str(error))
        line = int(place[1]) if place else _first_wrong(text)
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).partition("; use sys")[0]
        raise InputError(f"{where}:{line}: no TOML: {reason}") from error


def _first_wrong(text: str) -> int:
    """Returns the line of the first statement that is no TOML by itself; the last line if each of them is."""
    for number, statement in _statements(text):
        try:
            tomllib.loads(statement)
        except (ValueError, RecursionError):
            return number
    return text.rstrip("\n").count("\n") + 1


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
    start, line, next_line, depth = 0, 1, 1, 0
    for token in TOKEN.finditer(text + "\n"):
        kind = token[0]
        next_line += kind.count("\n")
        if kind in "[{":
            depth += 1
        elif kind in "]}":
            depth -= 1
        elif kind == "\n" and depth <= 0:
            statement = text[start : token.start()]
            if statement.strip() and not statement.lstrip().startswith("#"):
                yield line, statement
            start, line, depth = token.end(), next_line, 0
    if text[start:].strip():
        yield line, text[start:]


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
        if isinstance(value, dict) and len(prefix) < MAX_KEYS:
            yield from _paths(value, (*prefix, key))
