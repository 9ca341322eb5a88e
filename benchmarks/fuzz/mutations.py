"""Mutations of bytes, JSON, safetensors and SQLite files: whatever the formats can hold. All are drawn from a seed."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Draw = random.Random

DEEP, HUGE = "\0deep\0", "\0huge\0"  # stand for values that Python itself does not write
DEPTHS, DIGITS = (50, 900, 1100, 100_000), 5000  # brackets within brackets, and digits of a number
EDITS = (1, 1, 1, 2, 3)  # edits of one input
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1 << 31, 1 << 63, (1 << 64) - 1, -(1 << 63) - 1, 10**400),
    *(0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), HUGE, DEEP),
    *("", " ", "\0", "\ud800", "\u202e", "a\nb", "x" * 300, "x" * 70_000, "../../up", "/", "1", "true", "NaN", "٣"),
    *([], {}, [[]], [None], ["", ""], [0, -1], [1 << 40, 1 << 40], {"": None}, {"a": {"a": {}}}),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "C64", "NONE", "")


def nasty(draw: Draw) -> Any:
    """Returns a value that is seldom meant."""
    return copy.deepcopy(draw.choice(VALUES))


def edited_json(draw: Draw, values: Any) -> Any:
    """Returns JSON values with a few edits at places drawn at random."""
    values = copy.deepcopy(values)
    for _ in range(draw.choice(EDITS)):
        places = list(_places(values))
        if not places:
            return nasty(draw)
        holder, key = draw.choice(places)
        _edit(draw, holder, key, places)
    return values


def _places(values: Any) -> Any:
    """Yields every (container, key) of JSON values."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, item in list(items):
        yield values, key
        yield from _places(item)


def _edit(draw: Draw, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    kind = draw.randrange(8)
    if kind <= 2:
        holder[key] = nasty(draw)
    elif kind == 3:
        other, place = draw.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[draw.choice(("", "x" * 300, str(key).upper(), f"{key}2", "\ud800", "__class__"))] = holder.pop(key)
    elif kind == 6 and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    else:
        holder[key] = _near(draw, holder[key])


def _near(draw: Draw, value: Any) -> Any:
    """Returns a value of the same kind as another."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + draw.choice((-1, 1, value, -2 * value, 1 << 20))
    if isinstance(value, float):
        return value * draw.choice((-1.0, 0.0, 1e30, 1.5))
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(("", "x", "\n", " ", "é", "\0", value)) + value[at + draw.randrange(2) :]
    return [value] if draw.randrange(2) else {"a": value}


def spelt(draw: Draw, values: Any) -> bytes:
    """Returns JSON values as text; sometimes with a key twice, another encoding, or something behind it."""
    text = json.dumps(values, ensure_ascii=draw.randrange(2) == 0, indent=draw.choice((None, 1)))
    depth, digits = draw.choice(DEPTHS), "9" * DIGITS
    text = text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).replace(json.dumps(HUGE), digits)
    text = text.replace(DEEP, "deep").replace(HUGE, digits)
    kind = draw.randrange(40)
    if kind == 0 and text.startswith("{") and len(text) > 2:
        text = "{" + f"{json.dumps(draw.choice(list(values) or ['a']))}: {json.dumps(None)}, " + text[1:]
    elif kind == 1:
        text += draw.choice(("\n{}", "]", "\0", " ", "x"))
    elif kind == 2:
        return text.encode(draw.choice(("utf-16", "utf-8-sig", "utf-32")), "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def edited_bytes(draw: Draw, content: bytes) -> bytes:
    """Returns bytes with a few edits: flipped, cut, doubled, put in, set to a pattern."""
    edited = bytearray(content)
    for _ in range(draw.choice(EDITS)):
        at, size = draw.randrange(len(edited) + 1), draw.choice((1, 1, 2, 8, 64))
        kind = draw.randrange(7)
        if kind == 0 and at < len(edited):
            edited[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del edited[at : at + size]
        elif kind == 2:
            edited[at:at] = (
                draw.choice((b"\0", b"\xff", b"\n", b"\r", b",", b'"', b"\t", b"{", b"]", b"\xed\xa0\x80")) * size
            )
        elif kind == 3:
            edited[at:at] = edited[at : at + size]
        elif kind == 4:
            edited[at : at + size] = draw.randbytes(size)
        elif kind == 5 and draw.randrange(4) == 0:
            del edited[at:]
        else:
            edited[at : at + 8] = struct.pack("<q", draw.choice((-1, 0, 1 << 31, 1 << 62, -(1 << 63), len(edited))))
    return bytes(edited)


def edited_json_file(draw: Draw, content: bytes) -> bytes:
    """Returns the bytes of a JSON file with edits of its values, or of its bytes."""
    if draw.randrange(5) == 0:
        return edited_bytes(draw, content)
    return spelt(draw, edited_json(draw, json.loads(content)))


def edited_lines(draw: Draw, content: bytes) -> bytes:
    """Returns a file of one JSON value a line with edits: of a value, of the order of the lines, of bytes."""
    lines = content.splitlines()
    if not lines or draw.randrange(6) == 0:
        return edited_bytes(draw, content)
    for _ in range(draw.choice(EDITS)):
        at = draw.randrange(len(lines))
        if draw.randrange(4) == 0:
            lines[at : at + 1] = draw.choice(([], [lines[at]] * 2, [draw.choice(lines)], [b""]))
            lines = lines or [b"{}"]
            continue
        with contextlib.suppress(ValueError):
            lines[at] = spelt(draw, edited_json(draw, json.loads(lines[at]))).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def edited_safetensors(draw: Draw, content: bytes) -> bytes:
    """Returns a safetensors file with a header or values that lie."""
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    kind = draw.randrange(6)
    if kind == 0:
        return edited_bytes(draw, content)
    if kind == 1:
        _edit_values(draw, header, body)
    elif kind == 2:
        name = draw.choice([name for name in header if name != "__metadata__"])
        _lie(draw, header, name)
    else:
        header = edited_json(draw, header)
    text = spelt(draw, header)
    text += b" " * (-len(text) % 8)
    length = draw.choice((len(text),) * 20 + (0, len(text) - 8, len(text) + 8, 1 << 40))
    return struct.pack("<Q", max(0, length)) + text + bytes(body)


def _edit_values(draw: Draw, header: dict[str, Any], body: bytearray) -> None:
    """Sets numbers of a tensor to what no training gives."""
    name = draw.choice([name for name in header if name != "__metadata__"])
    start, stop = header[name]["data_offsets"]
    width = {"F64": 8, "I64": 8, "F32": 4, "I32": 4}.get(header[name]["dtype"], 1)
    if stop - start < width:
        return
    whole = draw.randrange(3) == 0
    floats = header[name]["dtype"].startswith("F") and width in (4, 8)
    for at in (
        range(start, stop - width + 1, width) if whole else [start + width * draw.randrange((stop - start) // width)]
    ):
        value: bytes = draw.randbytes(width)
        if floats:
            number = draw.choice((float("nan"), float("inf"), -1.0, 0.0, 3e38, 1e-45, 1e10))
            value = struct.pack("<d" if width == 8 else "<f", number)
        elif width > 1:
            number = draw.choice((-1, 0, 1, 2, 3, 100, (1 << 8 * width - 1) - 1, -(1 << 8 * width - 1)))
            value = number.to_bytes(width, "little", signed=True)
        body[at : at + width] = value


def _lie(draw: Draw, header: dict[str, Any], name: str) -> None:
    """Gives a tensor another dtype, shape or place."""
    entry = header[name]
    kind = draw.randrange(4)
    if kind == 0:
        entry["dtype"] = draw.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = draw.choice(
            ([], [0], [-1], entry["shape"][::-1], [*entry["shape"], 1], [1 << 40], [1.5], [0, 1 << 62])
        )
    elif kind == 2:
        entry["data_offsets"] = draw.choice(([0, 0], [-8, 8], entry["data_offsets"][::-1], [0, 1 << 50], [0], [0.5, 4]))
    else:
        header[draw.choice(("", "x" * 300, "a/b", "a.b.c", "\0", "__metadata__"))] = header.pop(name)


def edit_sqlite(draw: Draw, file: Path) -> None:
    """Changes cells, rows and tables of a SQLite file, or its bytes."""
    if draw.randrange(5) == 0:
        file.write_bytes(edited_bytes(draw, file.read_bytes()))
        return
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for _ in range(draw.choice(EDITS)):
            table = draw.choice(tables)
            columns = [row[1] for row in connection.execute(f'pragma table_info("{table}")')] or ["x"]
            with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                _statement(draw, connection, table, columns)


def _statement(draw: Draw, connection: sqlite3.Connection, table: str, columns: list[str]) -> None:
    kind, column = draw.randrange(9), draw.choice(columns)
    one = f'rowid = (select rowid from "{table}" order by random() limit 1)'
    if draw.randrange(3):
        number = connection.execute(f'select max(rowid) from "{table}"').fetchone()[0] or 1
        one = f"rowid = {draw.randint(1, number)}"
    if kind <= 4:
        connection.execute(f'update "{table}" set "{column}" = ? where {one}', (cell(draw),))
    elif kind == 5:
        connection.execute(f'delete from "{table}" where {one}')
    elif kind == 6:
        connection.execute(f'update "{table}" set "{column}" = ?', (cell(draw),))
    elif kind == 7:
        connection.execute(draw.choice((f'drop table "{table}"', f'alter table "{table}" rename to "other"')))
    else:
        connection.execute(
            f'alter table "{table}" {draw.choice(("drop column", "rename column"))} "{column}"'
            + draw.choice(("", ' to "other"'))
        )


def cell(draw: Draw) -> Any:
    """Returns a value of a cell: any of SQLite's types, JSON among them."""
    kind = draw.randrange(5)
    if kind == 0:
        return draw.choice((None, 0, 1, -1, 2, (1 << 63) - 1, -(1 << 63), 1e308, float("inf"), -0.5))
    if kind == 1:
        return draw.choice((b"", b"\xff\xfe", b"a\0b", draw.randbytes(20)))
    if kind == 2:
        return draw.choice(("", "\0", "a\nb", "../../up", "x" * 70_000, "sha256:" + "0" * 64, "١", "1", "{", "[]"))
    return spelt(draw, nasty(draw)).decode("utf-8", "replace")


Edit = Callable[[Draw, bytes], bytes]
