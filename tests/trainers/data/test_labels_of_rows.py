"""Labels of whole data sets: merged spellings, rows that training keeps, empty texts, and the report of it all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from adapters.heads.columns import Number, OneLabel, SeveralLabels, Tags
from adapters.labels.spelling import Spelling
from adapters.specs import Classification, MultiLabel, TokenTagging
from backbone.errors import InputError
from tests.tiny_images import write_folder
from trainers.config import Data
from trainers.data.examples import load_data
from trainers.data.prepare import FORMER_READERS, READER_VERSION, prepare, read_splits, source_of
from trainers.data.rows import RowReader, read_rows
from trainers.data.splits import membership, place_hash
from trainers.runs.reading import EmptyTexts

TEXTS = [f"text {i}" for i in range(200)]
HELD_OUT = [text for text in TEXTS if membership(text, 0.2, 0.1) == "dev"]
GATED = [text for text in TEXTS if membership(text, 0.2, 0.1) == "gate"]


def written(path: Path, rows: list[tuple[str, object]]) -> str:
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": [t for t, _ in rows], "label": [label for _, label in rows]}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    else:
        mark = {".csv": ",", ".tsv": "\t"}[path.suffix]
        path.write_text(f"text{mark}label\n" + "".join(f"{text}{mark}{label}\n" for text, label in rows))
    return str(path)


def data_of(path: Path, rows, **fields) -> Data:
    return Data(train=written(path, rows), **({"dev_fraction": 0.2, "gate_fraction": 0.1, "max_tokens": 16} | fields))


def with_rare(rare: dict[str, str], label=lambda name: name) -> list[tuple[str, object]]:
    return [(text, label(rare.get(text, "ab"[i % 2]))) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_merges_the_same_spellings(suffix, tmp_path):
    rows = [(text, "payment\u00a0" if i % 4 else "payment") for i, text in enumerate(TEXTS[:40])]
    rows += [(text, "spam" if i % 2 else "Spam") for i, text in enumerate(TEXTS[40:60])]
    read = read_splits(data_of(tmp_path / f"rows{suffix}", rows), OneLabel())
    assert {label for split in read.rows.values() for row in split for label in row.labels} == {
        "payment",
        "Spam",
        "spam",
    }
    assert read.report.spellings == (Spelling("payment", {"payment\u00a0": 30, "payment": 10}),)
    assert read.report.alike == (("Spam", "spam"),)


def test_numbers_of_two_files_are_one_class(tmp_path):
    files = (
        written(tmp_path / "a.jsonl", [("x", 0), ("y", 1)]),
        written(tmp_path / "b.jsonl", [("z", 0.0), ("w", 1.0)]),
        written(tmp_path / "c.csv", [("u", "0"), ("v", "1.0")]),
        written(tmp_path / "d.parquet", [("s", 0.0), ("t", 1.0)]),
    )
    rows = list(read_rows(Data(train=files), "train", OneLabel()))
    assert [row.labels for row in rows] == [("0",), ("1",)] * 4
    prepared = prepare(Data(train=files, dev_fraction=0, max_tokens=16), OneLabel(), cache=tmp_path / "cache")
    assert prepared.report.spellings[1].rows == {"1.0": 3, "1": 1}


def test_a_second_run_says_what_the_first_said(tmp_path, caplog):
    data = data_of(tmp_path / "rows.csv", [*with_rare({HELD_OUT[0]: "rare"}), ("", "a"), (" ", "a "), ("x", "nan")])
    told = []
    for hit in (False, True):
        caplog.clear()
        prepared = prepare(data, OneLabel(), cache=tmp_path / "cache")
        assert prepared.hit == hit
        told.append((caplog.messages, prepared.report))
    assert told[0] == told[1]
    text = "\n".join(told[0][0])
    assert "'a' (101 rows), 'a ' (1 row): one label, 'a'" in text
    assert "'nan' may stand for missing values" in text
    assert "which lacked a label, for good: 2 rows ('nan', 'rare'; first " in text
    assert "an empty text in 2 rows, first " in text
    (split, empty), *others = prepared.report.empty.items()
    assert (empty, others) == (EmptyTexts(2, f"{tmp_path / 'rows.csv'}:202"), []), (split, others)


@pytest.mark.parametrize(
    ("column", "label"),
    [(OneLabel(), str), (SeveralLabels(), lambda name: ["a", name]), (Tags(), lambda name: f"O B-{name}")],
)
def test_training_keeps_the_rows_that_it_needs(column, label, tmp_path):
    rare = {HELD_OUT[0]: "rare0", HELD_OUT[1]: "rare1", HELD_OUT[2]: "rare1", GATED[0]: "gated"}
    read = read_splits(data_of(tmp_path / "rows.jsonl", with_rare(rare, label)), column)
    split = {row.text: name for name, rows in read.rows.items() for row in rows}
    assert split[HELD_OUT[0]] == "train"
    assert sorted((split[HELD_OUT[1]], split[HELD_OUT[2]])) == ["dev", "train"], "one row of a label is enough"
    assert split[GATED[0]] == "gate", "gate rows never move"
    changed = {place_hash(text) for text in TEXTS if split[text] != membership(text, 0.2, 0.1)}
    assert changed == {row.hash for row in read.report.moved}
    assert len(read.moved) == 2


def test_copies_of_a_row_move_together(tmp_path):
    copies = [(HELD_OUT[0].upper(), "a"), (f" {HELD_OUT[0]} ", "rare")]
    read = read_splits(data_of(tmp_path / "rows.csv", with_rare({HELD_OUT[0]: "rare"}) + copies), OneLabel())
    place = place_hash(HELD_OUT[0])
    assert sum(place_hash(row.text) == place for row in read.rows["train"]) == 3
    assert not [row for row in read.rows["dev"] if place_hash(row.text) == place]


def test_a_row_that_was_moved_stays_when_data_arrive(tmp_path):
    path = tmp_path / "rows.csv"
    data = data_of(path, with_rare({HELD_OUT[0]: "rare"}))
    moved = read_splits(data, OneLabel()).moved
    fresh = next(f"new {i}" for i in range(99) if membership(f"new {i}", 0.2, 0.1) == "train")
    rows = [*with_rare({HELD_OUT[0]: "other"}), (fresh, "rare")]  # relabelled, and its label has another row
    written(path, rows)
    sides = []
    for known in ((), moved):
        grown = Data(train=str(path), dev_fraction=0.2, gate_fraction=0.1, moved=known)
        prepared = prepare(grown, OneLabel(), cache=tmp_path / "cache")
        sides.append([name for name in prepared.splits if HELD_OUT[0] in prepared.table(name).texts])
        assert source_of(grown, OneLabel()).key() == source_of(data, OneLabel()).key(), "a record of rows is no data"
    assert sides == [["train"], ["train"]], "'other' is new, so it would be needed"
    written(path, [*with_rare({}), (fresh, "rare")])
    assert [HELD_OUT[0] in {row.text for row in read_splits(d, OneLabel()).rows["dev"]} for d in (data, grown)] == [
        True,
        False,
    ]


def test_a_row_that_was_moved_stands_for_its_label(tmp_path):
    """Another row of the label stays for development, and rows that were prepared without the move are others."""
    path = tmp_path / "rows.csv"
    rows = with_rare(dict.fromkeys(HELD_OUT[:2], "rare"))
    for known in ((), *((place_hash(text),) for text in HELD_OUT[:2])):
        prepared = prepare(data_of(path, rows, moved=known), OneLabel(), cache=tmp_path / "cache")
        (moved,) = prepared.report.moved
        assert moved.hash in (known or map(place_hash, HELD_OUT[:2]))
        assert moved.hash in map(place_hash, prepared.table("train").texts)


def test_the_row_that_moves_is_the_same_in_any_order_of_the_file(tmp_path):
    rows = with_rare(dict.fromkeys(HELD_OUT, "rare"))
    first, last = (read_splits(data_of(tmp_path / "rows.csv", table), OneLabel()).moved for table in (rows, rows[::-1]))
    assert first == last
    assert len(first) == 1


def test_the_first_empty_text_is_that_of_the_lowest_line(tmp_path):
    rows = [(text if i not in (7, 8, 98) else "", "a") for i, text in enumerate(TEXTS[:120])]
    data = data_of(tmp_path / "rows.csv", rows, dev_fraction=0.0, gate_fraction=0.0)
    assert read_splits(data, OneLabel()).report.empty == {"train": EmptyTexts(3, f"{tmp_path / 'rows.csv'}:9")}


def test_numbers_and_ones_own_development_rows_do_not_move(tmp_path):
    numbers = data_of(tmp_path / "a.jsonl", [(text, i) for i, text in enumerate(TEXTS)])
    assert not read_splits(numbers, Number()).report.moved
    dev = written(tmp_path / "dev.csv", [("x", "a"), ("y", "rare"), ("z", "rare")])
    data = data_of(tmp_path / "rows.csv", with_rare({}), dev=dev)
    read = read_splits(data, OneLabel())
    assert not read.report.moved
    assert {name: len(rows) for name, rows in read.rows.items()} == {
        "train": len(TEXTS) - len(GATED),
        "dev": 3,
        "gate": len(GATED),
    }, "beside a file of one's own no train row is held out for development"


def test_labels_of_ones_own_files_that_training_lacks(tiny, tmp_path):
    train = written(tmp_path / "train.csv", [("ban", "a"), ("ben", "b")])
    test = written(tmp_path / "test.csv", [("bin", "a"), ("bon", "Rare"), ("bun", "Rare")])
    message = (
        r"test.csv:[34]: the label 'Rare' was never seen in training; nearest: a; 2 of 3 rows have such a label: name "
        r"all labels in data.label_names, choose rows by data.keep_labels, or correct or remove them"
    )
    with pytest.raises(InputError, match=message):
        load_data(Data(train=train, test=test, dev_fraction=0, max_tokens=16), Classification(), tiny)
    named = load_data(
        Data(train=train, test=test, dev_fraction=0, max_tokens=16, label_names=("a", "b", "Rare")),
        Classification(),
        tiny,
    )
    assert len(named.splits["test"]) == 3
    assert named.report.unused == ("Rare",)
    assert "data.label_names: no training row has 'Rare'" in " ".join(named.report.warnings())
    chosen = load_data(
        Data(train=train, test=test, dev_fraction=0, max_tokens=16, keep_labels=("a", "b")), Classification(), tiny
    )
    assert len(chosen.splits["test"]) == 1


@pytest.mark.parametrize(
    ("head", "label"),
    [(Classification(), str), (MultiLabel(), lambda name: [name]), (TokenTagging(), lambda name: f"O B-{name}")],
)
def test_a_label_of_the_gate_alone_is_no_error(head, label, tiny, tmp_path, caplog):
    data = data_of(tmp_path / "rows.jsonl", with_rare({GATED[0]: "gated"}, label))
    read = load_data(data, head, tiny)
    assert len(read.splits["gate"]) == len(read.tables["gate"]) == len(GATED) - 1
    assert "gated" not in " ".join(read.labels)
    assert "gated' (1 row); the gate has no evidence of them" in caplog.text


def test_rows_that_are_nothing_once_they_are_tokens(tiny, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    data = Data(train=written(path, [("ban", "a"), ("\u0007\u0001", "b"), ("", "a")]), dev_fraction=0, max_tokens=16)
    read = load_data(data, Classification(), tiny)
    assert read.nothing == {"train": 1}
    assert f"train: nothing is left of 1 row as tokens, first {path}:2" in caplog.text
    assert read.report.empty == {"train": EmptyTexts(1, f"{path}:3")}


def test_vectors_are_settled_by_the_first_split(tmp_path):
    names = ("a", "b")
    train = written(tmp_path / "train.jsonl", [("x", [1, 1]), ("y", [0, 1])])
    test = written(tmp_path / "test.jsonl", [("z", [0, 1])])
    data = Data(train=train, test=test, dev_fraction=0, max_tokens=16, label_names=names)
    read = read_splits(data, SeveralLabels())
    assert [row.labels for row in read.rows["test"]] == [("b",)]
    assert [row.labels for row in read_rows(data, "train", SeveralLabels())] == [("a", "b"), ("b",)]
    with pytest.raises(InputError, match=r"test.jsonl:1: .*may be two labels or a vector"):
        list(read_rows(data, "test", SeveralLabels()))
    alone = RowReader(data, SeveralLabels(), limit=1)
    assert [row.labels for row in alone.rows("train")] == [("a", "b")]


def test_sentences_as_lists_written_out(tmp_path):
    data = Data(train=written(tmp_path / "a.jsonl", [("['to', 'New York']", "['O', 'B-x']"), ("[1] x", "O O")]))
    with pytest.raises(InputError, match=r"a.jsonl:1: word 2: 'New York' is no word"):
        list(read_rows(data, "train", Tags()))
    data = Data(train=written(tmp_path / "a.jsonl", [("['to', 'york']", "['O', 'B-x']"), ("[1] x", "O O")]))
    assert [row.text for row in read_rows(data, "train", Tags())] == ["to york", "[1] x"]


def test_classes_without_images_are_named(tmp_path, caplog):
    folder = write_folder(tmp_path / "photos", 2, seed=0)
    (folder / "medium").mkdir()
    (folder / "medium" / ".gitkeep").touch()
    for junk in (".DS_Store", "Thumbs.db", "green/.DS_Store", "green/Thumbs.db", "green/desktop.ini"):
        (folder / junk).touch()
    for junk in (".ipynb_checkpoints", "__MACOSX", "green/@eaDir"):
        (folder / junk).mkdir()
    data = Data(train=str(folder), format="image_folder", dev_fraction=0, max_tokens=16)
    prepared = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert sorted(set(prepared.table("train").labels)) == [("blue",), ("green",), ("red",)]
    note = f"data.train: {folder}: no image in 'medium'; a class without images is left out"
    assert prepared.report.notes == (note,)
    assert note in caplog.messages


def test_another_reader_has_another_key(tmp_path):
    source = source_of(data_of(tmp_path / "rows.csv", with_rare({})), OneLabel())
    assert len({source.key(reader) for reader in (*FORMER_READERS, READER_VERSION)}) == len(FORMER_READERS) + 1
