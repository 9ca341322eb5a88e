"""Cells of a column, read strictly: text, numbers, lists. Imports no jax.

Every function raises InputError that names the place (`where`: file and line) and the column.

A number is a typed number, or text in ASCII digits with a point: `3`, `-1.5`, `.5`, `2e1`, ` 3 `. Blanks around it do
not count. Booleans, NaN and infinity are no numbers, and no text is: `1_000`, `0x10`, `1,5`, `1,000`, `3%`, digits of
other scripts, or a number too large for float64 (`1e400`).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from backbone.errors import InputError
from backbone.texts import load_json

# white space (`\s` is all of Unicode's), and characters without width: zero-width space, joiners and marks of
# direction, word joiner, byte order mark
BLANK = "[\\s\u200b-\u200f\u2060\ufeff]"

_EDGES = re.compile(f"^{BLANK}+|{BLANK}+$")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_QUOTED = r"'(?:[^'\\\n]|\\.)*'" + "|" + r'"(?:[^"\\\n]|\\.)*"'
_ITEM = re.compile(rf"\s*({_QUOTED}|-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|True|False|None)\s*")
_BITS = re.compile(r"[01](\s*[,;\s]\s*[01])+")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_LIST = re.compile(r"""[\[({]+\s*['"].*|[\[{][^\[\](){}]*,[^\[\](){}]*""", re.DOTALL)  # quotes, or commas between words


def binary_digits(text: str) -> list[str] | None:
    """Returns the values of a text that is a vector of 0 and 1, with blanks or commas between; None for others."""
    return re.findall("[01]", text) if _BITS.fullmatch(stripped(text)) else None


def plain(value: Any) -> Any:
    """Returns a NumPy scalar as the Python value it holds, an array as lists, and anything else as it is."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return value


def stripped(text: str) -> str:
    """Returns text without the blanks around it: white space, byte order marks, characters without width."""
    return _EDGES.sub("", text)


def as_text(value: str | bytes, where: str) -> str:
    """Returns text that UTF-8 can hold; raises InputError for other bytes and for half a surrogate pair."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"{where}: {value[:40]!r} is not valid UTF-8: {error.reason}") from None
    return text


def as_number(value: Any, column: str, where: str) -> float:
    """Returns a finite number, float64, by the rule at the top of this file; raises InputError for anything else."""
    value, number, hint = plain(value), math.nan, ""
    if isinstance(value, bytes):
        value = as_text(value, f"{where}: {column}")
    if isinstance(value, str):
        text = stripped(value)
        if _NUMBER.fullmatch(text):
            number = float(text)
        elif _DECIMAL_COMMA.fullmatch(text):
            hint = "; write a point for decimals, and nothing between thousands"
    elif isinstance(value, bool):
        hint = "; write 0 or 1"
    elif isinstance(value, (int, float, Decimal)):
        try:
            number = float(value)
        except (OverflowError, ValueError):  # too large, or a signalling NaN
            number = math.nan
    if not math.isfinite(number):
        shown = repr(value)
        raise InputError(f"{where}: {column}: {shown[:40] + '...' * (len(shown) > 40)} is not a number{hint}")
    return number


def as_parts(value: Any, column: str, where: str) -> list[Any]:
    """Returns the words or tags in a cell: a list, or text with spaces between."""
    if isinstance(value, bytes):
        value = as_text(value, f"{where}: {column}")
    if isinstance(value, str):
        return [part for part in value.split(" ") if part]
    value = plain(value)
    if isinstance(value, (list, tuple)):
        return [as_text(part, f"{where}: {column}") if isinstance(part, bytes) else part for part in map(plain, value)]
    raise InputError(f"{where}: {column}: expected a list, or text with spaces, got {type(value).__name__}")


def listed(text: str, column: str, where: str) -> list[Any] | Mapping[Any, Any] | None:
    """Returns the list or dictionary that a text writes out, as JSON, Python, pandas or NumPy do; None for other text.

    `['a', 'b']`, `["a"]`, `('a',)`, `{'a', 'b'}`, `[1 0 1]`, `['a' 'b']`, `{"a": 1}`. Raises InputError for a
    dictionary that holds a key twice.
    """
    text = stripped(text)
    if _BRACKETS.get(text[:1]) != text[-1:] or len(text) < 2:
        return None
    value: Any = None
    try:
        value = load_json(text, object_pairs_hook=lambda pairs: _dictionary(pairs, text, column, where))
    except ValueError:
        if text[0] == "{" and ":" in text:
            value = _python_dictionary(text, column, where)
    if isinstance(value, (list, dict)):
        return value
    items = _items(text[1:-1])
    return None if items and text[0] == "(" and "," not in text else items  # brackets around one value are no tuple


_CUT_OFF = tuple(bracket + quote for bracket in "[({" for quote in "'\"")  # no label begins like this


def looks_listed(text: str) -> bool:
    """Returns whether a text begins like a list or is in brackets like one: `[a, b]`, `[['a']]`, `['a', 'b`."""
    text = stripped(text)
    if text[:2] in _CUT_OFF:
        return True
    if text.startswith(("array(", "set(", "frozenset(")):
        return text.endswith(")")
    return _BRACKETS.get(text[:1]) == text[-1:] and len(text) > 1 and bool(_LIST.fullmatch(text[:-1]))


def _items(inside: str) -> list[Any] | None:
    """Returns the items between brackets: in quotes or numbers, with commas or, as NumPy writes them, blanks between.

    Python would read `'a' 'b'` as one text.
    """
    items: list[Any] = []
    place, commas = 0, 0
    while place < len(inside) and (match := _ITEM.match(inside, place)):
        items.append(ast.literal_eval(match[1]) if not _NUMBER.fullmatch(match[1]) else _typed(match[1]))
        place = match.end()
        if inside[place : place + 1] == ",":
            place, commas = place + 1, commas + 1
        elif not match[0][-1].isspace() and place < len(inside):
            return None
    if inside[place:].strip() or (commas and commas not in (len(items) - 1, len(items))):
        return None
    return items


def _typed(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)


def _python_dictionary(text: str, column: str, where: str) -> Mapping[Any, Any] | None:
    """Returns a dictionary as Python writes it."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Dict):
            return None
        pairs = [
            (ast.literal_eval(key) if key is not None else "**", ast.literal_eval(value))
            for key, value in zip(tree.keys, tree.values, strict=True)
        ]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return _dictionary(pairs, text, column, where)


def _dictionary(pairs: list[tuple[Any, Any]], text: str, column: str, where: str) -> Mapping[Any, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{where}: {column}: the key {twice!r} stands twice in {text[:60]}")
    return dict(pairs)
