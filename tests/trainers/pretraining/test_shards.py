"""Shards of a corpus: the same paragraphs from every kind of file, from every place on, and bad ones by name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
from pathlib import Path

import pyarrow
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from pyarrow import parquet

from backbone.errors import InputError
from tests.trainers.pretraining.backbone_runs import paragraphs
from trainers.pretraining import shards
from trainers.pretraining.corpus import Corpus, files_of, read_text
from trainers.pretraining.shards import units

TEXTS = [*paragraphs(40), "Höhe, ½ Öl, 日本語 und 🍎"]
PLAIN = "\ufeff\n\n" + "\n \n".join(text.replace(" ", "\n", 1) for text in TEXTS) + "\n"


def write_parquet(path: Path, column: str = "text") -> None:
    cells = [*("\n\n".join(TEXTS[i : i + 3]) for i in range(0, len(TEXTS), 3)), None, " "]
    parquet.write_table(pyarrow.table({"number": range(len(cells)), column: cells}), path, row_group_size=4)


def write_records(path: Path, records: list[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.txt", PLAIN)


WRITERS = {
    "plain.txt": lambda path: path.write_text(PLAIN[1:], encoding="utf-8"),
    "marked.txt": lambda path: path.write_text(PLAIN, encoding="utf-8"),
    "windows.txt": lambda path: path.write_bytes(PLAIN.replace("\n", "\r\n").encode()),
    "mac.txt": lambda path: path.write_bytes(PLAIN.replace("\n", "\r").encode()),
    "utf16.txt": lambda path: path.write_text(PLAIN[1:], encoding="utf-16"),
    "packed.txt.gz": lambda path: path.write_bytes(gzip.compress(PLAIN.encode())),
    "no_suffix.txt": lambda path: path.write_bytes(gzip.compress(PLAIN[1:].encode("utf-16"))),
    "packed.txt.bz2": lambda path: path.write_bytes(bz2.compress(PLAIN.encode())),
    "packed.txt.xz": lambda path: path.write_bytes(lzma.compress(PLAIN.encode())),
    "packed.txt.zst": lambda path: path.write_bytes(pyarrow.compress(PLAIN.encode(), "zstd", asbytes=True)),
    "packed.zip": write_zip,
    "rows.parquet": write_parquet,
    "rows.array_record": lambda path: write_records(path, [text.encode() for text in TEXTS]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_shard_gives_its_paragraphs_from_every_place(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    parts = list(units(path, "text"))
    assert [text for _, unit in parts for text in unit] == TEXTS
    places = [place for place, _ in parts]
    assert places == sorted(set(places))
    for number, place in enumerate(places):
        assert list(units(path, "text", place)) == parts[number + 1 :]
    corpus = Corpus(files=(str(path),), held_out_fraction=0.3)
    assert sorted([*read_text(corpus).train, *read_text(corpus).held_out]) == sorted(TEXTS)


@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith(("packed", "no_suffix"))])
def test_a_packed_shard_is_never_read_whole(tmp_path, monkeypatch, name):
    path = tmp_path / name
    WRITERS[name](path)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read into memory"))
    assert sum(len(unit) for _, unit in units(path, "text")) == len(TEXTS)


@pytest.mark.parametrize("limit", [8, 13, 64])
def test_a_long_paragraph_is_cut_after_a_word_and_nothing_is_lost(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(shards, "MAX_BYTES", limit)
    path = tmp_path / "one.txt"
    path.write_text("Ganz ohne Leerzeile: " + " ".join(["Öl"] * 30 + ["日本語" * 9]), encoding="utf-8")
    parts = list(units(path, "text"))
    assert len(parts) > 2
    cut = [text for _, unit in parts for text in unit]
    assert all(len(text.encode()) < 2 * limit for text in cut)
    assert "".join(cut).replace(" ", "") == path.read_text(encoding="utf-8").replace(" ", "")
    for number, (place, _) in enumerate(parts):
        assert list(units(path, "text", place)) == parts[number + 1 :]


def test_a_folder_is_read_by_its_first_kind_of_shard(tmp_path):
    write_parquet(tmp_path / "b.parquet")
    write_parquet(tmp_path / "a.parquet")
    corpus = Corpus(files=(str(tmp_path),))
    assert [path.name for path in files_of(corpus)] == ["a.parquet", "b.parquet"]
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"a b c"))
    assert [path.name for path in files_of(corpus)] == ["z.txt.gz"]


FAULTS = {
    "latin.txt": (lambda path: path.write_bytes("Höhe".encode("latin-1")), "latin.txt: byte 1 is not valid UTF-8"),
    "middle.txt": (
        lambda path: path.write_bytes(b"\x80\xbf" * (shards.MAX_BYTES // 2 + 9)),
        "middle.txt: byte 0 is not valid UTF-8",
    ),
    "nul.txt": (lambda path: path.write_bytes(b"a\0b"), "nul.txt: byte 1 is a NUL character"),
    "odd.txt": (lambda path: path.write_bytes("Höhe".encode("utf-16")[:-1]), "odd.txt: is not valid utf-16-le"),
    "cut.txt.gz": (lambda path: path.write_bytes(gzip.compress(PLAIN.encode())[:-20]), "damaged or cut off"),
    "book.txt": (lambda path: path.write_bytes(b"%PDF-1.7 ..."), "is a PDF document"),
    "other.parquet": (lambda path: write_parquet(path, "content"), r"has no column 'text'.*set corpus.column"),
    "cut.parquet": (lambda path: path.write_bytes(b"PAR1 and so on"), "not a readable Parquet file"),
    "no.array_record": (lambda path: path.write_bytes(b"x" * 100), "no.array_record: not a readable ArrayRecord"),
    "bytes.array_record": (lambda path: write_records(path, [b"\xff\xfe"]), "record 0: byte 0 is not valid UTF-8"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_shard_is_named_with_its_fault(tmp_path, name):
    write, message = FAULTS[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{re.escape(name)}.*{message.removeprefix(name)}"):
        list(units(tmp_path / name, "text"))


def test_a_column_of_numbers_is_no_text(tmp_path):
    write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows.parquet:row 1: number: expected text, got int; set corpus.column"):
        list(units(tmp_path / "rows.parquet", "number"))
