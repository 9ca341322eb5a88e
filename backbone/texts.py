"""The one way from the bytes of a file to text: data, labels, corpora, texts to predict, JSON of other programs.

Packed files are unpacked (`backbone.compression`). A byte order mark decides the encoding and is no part of the text.
The text has no NUL character. Lines end at newlines, of Unix, Windows, or of the former Mac (a lone carriage
return, where the file has no newline). Whatever is not in the encoding is an InputError with file, line and remedy.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from backbone.compression import read_bytes, streamed, unpacked
from backbone.errors import InputError

CONVERT = "convert the file to UTF-8"  # remedy where no setting names the encoding
MARKS = (  # byte order marks; those of UTF-32 first, since one of them begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
PARQUET = b"PAR1"  # first and last bytes of a Parquet file
SAMPLE = 4096  # bytes by which UTF-16 without a mark is told


def read_text(path: Path, encoding: str = "utf-8", remedy: str = CONVERT) -> str:
    """Returns the text of a file; raises InputError with file, line and `remedy`."""
    return decoded(read_bytes(path), str(path), encoding, remedy)


def encoding_of(path: Path, encoding: str = "utf-8") -> str:
    """Returns the encoding in which a file is read: that of its byte order mark, else `encoding`.

    Of a packed file the first unpacked bytes alone are read. Raises InputError for one that cannot be read.
    """
    with streamed(path) as file:
        head = file.read(4)
    return next((name for mark, name in MARKS if head.startswith(mark)), encoding)


def text_of(content: bytes, where: str) -> str:
    """Returns the UTF-8 text of bytes that are no file, as those of standard input; raises InputError."""
    return decoded(unpacked(content, where), where)


def decoded(content: bytes, where: str, encoding: str = "utf-8", remedy: str = CONVERT) -> str:
    """Returns the text of unpacked bytes; a mark goes before `encoding`. Raises InputError."""
    if content[:4] == content[-4:] == PARQUET:
        raise InputError(f"{where}: is a Parquet file, not text; set data.format=parquet")
    mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", encoding))
    without_mark = "" if mark else _utf16_without_mark(content)
    if without_mark and not encoding.lower().replace("_", "-").startswith("utf-16"):
        raise InputError(f"{where}:1: looks like UTF-16 without a byte order mark ({without_mark}); {remedy}")
    try:
        text = content[len(mark) :].decode(encoding)
    except LookupError:
        raise InputError(f"data.encoding: {encoding!r} is unknown to Python") from None
    except UnicodeDecodeError as error:
        line = content[len(mark) :][: error.start].decode(encoding, "replace").count("\n") + 1
        said = f", which its byte order mark says it is; {CONVERT}" if mark else f"; {remedy}"
        raise InputError(f"{where}:{line}: byte {len(mark) + error.start} is not valid {encoding}{said}") from None
    text = text.lstrip("\ufeff")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise InputError(f"{where}:{line}: holds a NUL character; the file is damaged, or is no text")
    return text


def _utf16_without_mark(content: bytes) -> str:
    """Returns the encoding if every second byte of many is NUL, as in UTF-16 of Latin letters; else ""."""
    sample = content[:SAMPLE]
    pairs = len(sample) // 2
    first, second = sample[: 2 * pairs : 2].count(0), sample[1 : 2 * pairs : 2].count(0)
    if pairs >= 2 and max(first, second) > 0.6 * pairs and min(first, second) < 0.1 * pairs:
        return "utf-16-le" if second > first else "utf-16-be"
    return ""


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each line. Only newlines end one: texts hold other Unicode line breaks."""
    parts = text.split("\n")
    if not parts[-1].rstrip("\r"):
        parts.pop()
    for number, line in enumerate(parts, 1):
        yield number, line.rstrip("\r")


def read_names(path: Path) -> list[str]:
    """Returns the names in a file with one a line, without empty lines; raises InputError."""
    return [line.strip() for _, line in lines(read_text(path)) if line.strip()]


def require_unicode(text: str, where: str) -> None:
    """Raises InputError for half a surrogate pair; Python makes one of a byte that the terminal's encoding lacks."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {text[:60]!r} is no Unicode text (character {error.start + 1} is half a surrogate pair); give "
            "it in UTF-8"
        ) from None


class _Doubled(dict[str, object]):
    """A JSON object that holds keys more than once."""

    names: tuple[str, ...]


def load_json(text: str | bytes, **hooks: Any) -> Any:
    """Returns the value of a JSON text, with the hooks of `json.loads`.

    Raises ValueError for any other text, and for brackets that are nested too deep for the parser.
    """
    try:
        return json.loads(text, **hooks)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def parse_json(text: str, where: str, columns: Collection[str] | None = None) -> Any:
    """Returns the value of a JSON text; raises InputError naming `where` for other text, and for a doubled key.

    With `columns` only what is in these fields of the object, or of each object of a list, counts: a doubled key that
    nobody reads does no harm.
    """
    doubled: list[_Doubled] = []

    def made(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) == len(pairs):
            return content
        keys = [key for key, _ in pairs]
        content = _Doubled(content)
        content.names = tuple(key for key in content if keys.count(key) > 1)
        doubled.append(content)
        return content

    try:
        value = load_json(text, object_pairs_hook=made)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if doubled and (name := _first_doubled(value, columns)):
        raise InputError(f"{where}: the key {name!r} stands twice in one object; keep one of them")
    return value


def _first_doubled(value: Any, columns: Collection[str] | None = None) -> str:
    """Returns the first doubled key in a JSON value; "" if there is none that counts."""
    if isinstance(value, _Doubled) and (names := [n for n in value.names if columns is None or n in columns]):
        return names[0]
    if isinstance(value, list):
        return next((name for item in value if (name := _first_doubled(item, columns))), "")
    inside = value.items() if isinstance(value, dict) else ()
    some = (item for key, item in inside if columns is None or key in columns)
    return next((name for item in some if (name := _first_doubled(item))), "")
