"""Bytes of files to text: marks, packing with its limits, JSON, and what is no Unicode."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from backbone import compression
from backbone.compression import plain_name, unpacked
from backbone.errors import InputError
from backbone.texts import decoded, lines, load_json, parse_json, read_names, read_text, require_unicode, text_of
from tests.packing import PACKED, zipped

ROOT = Path(__file__).resolve().parents[2]
TEXT = "naïve\ncafé\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_goes_before_the_named_encoding(encoding):
    """The codecs of these names write a mark of the machine's byte order."""
    assert decoded(TEXT.encode(encoding), "f") == TEXT
    assert decoded(TEXT.encode(encoding), "f", "latin-1") == TEXT
    assert decoded(f"\ufeff{TEXT}".encode(encoding), "f") == TEXT, "a mark that two programs wrote is no letter either"


def test_named_encodings():
    assert decoded(TEXT.encode("latin-1"), "f", "latin-1") == TEXT
    assert decoded(TEXT.encode("utf-16-be"), "f", "utf-16-be") == TEXT
    with pytest.raises(InputError, match=r"f:2: byte 10 is not valid utf-8; convert the file to UTF-8"):
        decoded(TEXT.encode("utf-8")[:-2] + b"\n", "f")
    with pytest.raises(InputError, match=r"f:2: byte 13 is not valid utf-8, which its byte order mark says it is"):
        decoded(TEXT.encode("utf-8-sig")[:-2] + b"\n", "f", "latin-1")
    with pytest.raises(InputError, match=r"data\.encoding: 'utf-9' is unknown"):
        decoded(b"x", "f", "utf-9")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding):
    with pytest.raises(InputError, match=rf"f:1: looks like UTF-16 without a byte order mark \({encoding}\)"):
        decoded("text,label\nhello,a\n".encode(encoding), "f")
    with pytest.raises(InputError, match="f:1: holds a NUL character; the file is damaged, or is no text"):
        decoded(b"a\0\0\0" * 10, "f")


def test_lines_end_at_newlines_alone():
    assert list(lines("a\r\nb\u2028c\r\r\n\nd")) == [(1, "a"), (2, "b\u2028c"), (3, ""), (4, "d")]
    assert [line for _, line in lines(decoded(b"a\rb\r", "f"))] == ["a", "b"]
    assert decoded(b"a\rb\nc", "f") == "a\rb\nc", "a carriage return inside a line is part of it"


@pytest.mark.parametrize("suffix", PACKED)
def test_damage_to_a_packed_file(suffix, tmp_path):
    content = PACKED[suffix](b"text,label\n" * 50)
    for cut in range(1, len(content) - 10):
        with pytest.raises(InputError, match=r"f: packed by .*damaged or cut off"):
            unpacked(content[:-cut], "f")


@pytest.mark.parametrize("suffix", PACKED)
def test_a_file_that_unpacks_to_far_more_than_data_do(suffix, monkeypatch):
    monkeypatch.setattr(compression, "MIN_LIMIT", 1000)
    packed = PACKED[suffix](bytes(1_000_000))
    with pytest.raises(InputError, match=rf"f: {len(packed)} bytes of .* unpack to more than .* unpack it first"):
        unpacked(packed, "f")
    monkeypatch.setattr(compression, "MIN_LIMIT", 1_000_000)
    assert unpacked(packed, "f") == bytes(1_000_000), "the limit itself is kept"


def test_the_limit_is_200_times_the_packed_bytes_or_256_mib_whichever_is_more():
    assert compression.limit_of(bytes(10)) == 256 * 2**20
    assert compression.limit_of(bytes(2**21)) == 200 * 2**21


def test_archives_of_several_files_and_packed_files_in_packed_ones():
    with pytest.raises(InputError, match=r"f: a zip archive of 2 files \(a\.csv, b\.csv\), expected one; unpack it"):
        unpacked(zipped(b"x", "a.csv", "b.csv"), "f")
    assert unpacked(zipped(b"x", "a.csv", "__MACOSX/._a.csv", ".DS_Store"), "f") == b"x"
    with pytest.raises(InputError, match="f: a zip archive of 0 files, expected one"):
        unpacked(zipped(b""), "f")
    with pytest.raises(InputError, match="f: is a file of Microsoft Office; save it as CSV"):
        unpacked(zipped(b"x", "[Content_Types].xml", "xl/workbook.xml"), "f")
    with pytest.raises(InputError, match=r"f: holds another packed file \(gzip\)"):
        unpacked(gzip.compress(gzip.compress(b"x")), "f")
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"), BytesIO())
    with pytest.raises(InputError, match="f: is a tar archive; unpack it with `tar -xf`"):
        unpacked(stream.getvalue(), "f")
    locked = bytearray(zipped(b"x", "a.csv"))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + place] |= 1  # the flag of a password, in both headers
    with pytest.raises(InputError, match=r"f: packed by zip, and cannot be unpacked here: .*password"):
        unpacked(bytes(locked), "f")


def test_a_text_that_begins_as_packed_files_do_is_text():
    for text in (b"BZh9 is the head of a bzip2 file\n", b"PK,label\n"):
        assert unpacked(text, "f") == text


def test_names_of_packed_files(tmp_path):
    (tmp_path / "data.zip").write_bytes(zipped(b"x", "inside/rows.tsv"))
    names = {"a.csv": "a.csv", "a.csv.gz": "a.csv", "a.JSONL.ZST": "a.JSONL", "a.gz": "a", "none.csv.zip": "none.csv"}
    assert {name: plain_name(Path(name)) for name in names} == names
    assert plain_name(tmp_path / "data.zip") == "rows.tsv"


def test_names_in_a_file_and_files_that_cannot_be_read(tmp_path):
    (tmp_path / "labels.txt").write_bytes("\ufeffnegative\r\n\r\n positive \r\n".encode())
    assert read_names(tmp_path / "labels.txt") == ["negative", "positive"]
    with pytest.raises(InputError, match=r"none\.txt: cannot be read: No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
    assert text_of(gzip.compress(b"a\n"), "standard input") == "a\n"


def test_doubled_keys_and_texts_that_are_no_json():
    assert parse_json('{"a": [1, {"b": 2}], "c": {"b": 3}}', "f") == {"a": [1, {"b": 2}], "c": {"b": 3}}
    for text in ('{"a": 1, "a": 2}', '[{"a": 1, "a": 2}]', '{"b": {"a": 1, "a": 1}}'):
        with pytest.raises(InputError, match="f: the key 'a' stands twice"):
            parse_json(text, "f")
    text = '{"a": 1, "a": 2, "b": {"c": 1, "c": 2}, "d": 3}'
    assert parse_json(text, "f", ("d",))["d"] == 3, "nobody reads what is doubled"
    for column, name in (("a", "a"), ("b", "c")):
        with pytest.raises(InputError, match=f"f: the key '{name}' stands twice"):
            parse_json(text, "f", (column,))
    for text in ("{", "[" * 100_000, "", "1" * 5000):
        with pytest.raises(InputError, match="f: not JSON: "):
            parse_json(text, "f")


def test_text_that_is_no_unicode():
    require_unicode("café \U0001f600", "f")
    halves = json.loads('"\\ud83d"'), b"caf\xe9".decode("utf-8", "surrogateescape")
    for text in halves:
        with pytest.raises(InputError, match=r"f: .* is no Unicode text"):
            require_unicode(text, "f")


# files that read JSON which this program, or a library that it called, wrote a moment before
OURS = {
    "adapters/export/standalone.py",
    "adapters/machine.py",
    "backbone/exchange/published_tokenizer.py",
    "backbone/preprocessing.py",
    "backbone/texts.py",
    "trainers/retrain/configs.py",
    "trainers/retrain/workers.py",
    "trainers/search/workers.py",
}


def test_json_that_is_nested_too_deep_is_no_json():
    with pytest.raises(ValueError, match="nested too deep"):
        load_json("[" * 100_000)
    assert load_json("[1]", parse_int=str) == ["1"]


def test_json_of_others_is_read_in_one_place():
    """`json.loads` raises RecursionError for brackets within brackets, which no reader of a damaged file expects."""
    folders = ("adapters", "backbone", "metering", "registry", "serving", "trainers")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    using = {str(file.relative_to(ROOT)) for file in files if re.search(r"\bjson\.loads\(", file.read_text())}
    assert using <= OURS
