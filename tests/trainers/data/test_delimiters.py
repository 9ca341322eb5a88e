"""What lies between the columns of a table: recognised, named, or refused with the remedy."""

from __future__ import annotations

import csv
import logging

import pytest

from adapters.heads.columns import OneLabel
from backbone.errors import InputError
from tests.command import call
from trainers.config import Data, TrainConfig
from trainers.config.load import override
from trainers.data.rows import read_rows

ROWS = [("hello, world", ("a",)), ('a "b"; c', ("b",))]


def read(path, **fields):
    return [(row.text, row.labels) for row in read_rows(Data(train=str(path), **fields), "train", OneLabel())]


def table(delimiter: str) -> str:
    """Returns the rows as a spreadsheet writes them, each text in quotes."""
    return f'text{delimiter}label\n"hello, world"{delimiter}a\n"a ""b""; c"{delimiter}b\n'


@pytest.mark.parametrize(
    ("delimiter", "words"), [(";", "semicolons"), ("\t", "tabs"), ("|", "pipes"), (", ", "commas and blanks")]
)
def test_a_csv_file_whose_header_leaves_no_doubt(delimiter, words, tmp_path, caplog):
    (tmp_path / "rows.csv").write_text(table(delimiter))
    with caplog.at_level(logging.INFO, "trainers"):
        assert read(tmp_path / "rows.csv") == ROWS
    assert f"rows.csv: its columns lie between {words}, by its header" in caplog.text


def test_a_named_delimiter_and_excels_own_line(tmp_path, caplog):
    (tmp_path / "rows.csv").write_text(table("~"))
    assert read(tmp_path / "rows.csv", delimiter="~") == ROWS
    (tmp_path / "rows.tsv").write_text('text;label\na "b;x\n')
    assert read(tmp_path / "rows.tsv", delimiter=";") == [('a "b', ("x",))], "a TSV has no quotes"
    (tmp_path / "rows.tsv").write_text('text\tlabel\n "b"\tx\n')
    assert read(tmp_path / "rows.tsv") == [(' "b"', ("x",))], "so none can be in the wrong place"
    (tmp_path / "rows.csv").write_text("sep=;\ntext,label\nx;y,a\n")
    assert read(tmp_path / "rows.csv", delimiter=",") == [("x;y", ("a",))], "a person knows better than the file"
    (tmp_path / "rows.csv").write_text("sep=;\r\n" + table(";") + "c;d;e\n")
    with pytest.raises(InputError, match=r"rows\.csv:5: 3 fields, expected 2 \(text, label\), between semicolons"):
        read(tmp_path / "rows.csv")


def test_a_record_stands_at_its_first_line(tmp_path):
    (tmp_path / "rows.csv").write_text('sep=,\ntext,label\n"two\nlines",a\n\nx,b\n"more\n\nlines",a\n')
    rows = read_rows(Data(train=str(tmp_path / "rows.csv")), "train", OneLabel())
    assert [row.where.rpartition(":")[2] for row in rows] == ["3", "6", "7"]


def test_files_without_a_header_have_as_many_columns_as_are_named(tmp_path):
    (tmp_path / "rows.csv").write_text("hello, world;a\nyes;b\n")
    assert read(tmp_path / "rows.csv", columns=("text", "label")) == [("hello, world", ("a",)), ("yes", ("b",))], (
        "by commas the second row has one field"
    )


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        (
            "rows.csv",
            "Text;Klasse\nx;y\n",
            {},
            r"no column 'text'; .*Text; .*its header was split at semicolons$",
        ),
        ("rows.tsv", "text,label\nx,y\n", {}, r"has one column between tabs; .*commas: set data.delimiter=','"),
        ("rows.csv", "text;label\nx;y\nx,y\n", {}, r"rows.csv:3: 1 fields, expected 2 .* between semicolons"),
        ("rows.csv", "text,label\nx,y\nx;y\n", {}, r"rows.csv:3: 1 fields, expected 2 .* between commas"),
        (
            "rows.csv",
            "a;b|c\nx;y|z\n",
            {"columns": ("text", "label")},
            r"between semicolons or pipes; set data.delimiter",
        ),
        ("rows.csv", 'text,label\n"x", "y"\n', {}, r"rows.csv:2: a quote behind a blank begins no quotation"),
        ("rows.csv", 'text;label\n"x;y\n', {}, r"quotes that are no quotation: set data.format=tsv data.delimiter=';'"),
    ],
)
def test_tables_that_leave_doubt(name, content, fields, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, **fields)


def test_the_field_of_a_config(tmp_path):
    for spelling in ("tab", "\\t", "\t"):
        assert override(TrainConfig(), [f"data.delimiter={spelling}"]).data.delimiter == "\t"
    for wrong in (";;", '"', "a", "1"):
        with pytest.raises(InputError, match=r"delimiter: expected tab, or one character"):
            Data(delimiter=wrong)
    with pytest.raises(InputError, match="delimiter: files of format jsonl do not have it; those of bio, csv, tsv"):
        Data(format="jsonl", delimiter=";")
    (tmp_path / "rows.jsonl").write_text('{"text": "x", "label": 1}\n')
    with pytest.raises(InputError, match=r"data\.delimiter: files of format jsonl do not have it"):
        read(tmp_path / "rows.jsonl", delimiter=";")
    with pytest.raises(InputError, match=r"data\.word_column: files of format jsonl do not have it"):
        read(tmp_path / "rows.jsonl", word_column="1")


def test_empty_names_behind_the_last_column_do_no_harm(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,,\nx,a,,\n")
    assert read(tmp_path / "rows.csv") == [("x", ("a",))]


def test_words_of_the_command_line_that_are_no_unicode(capsys):
    status, _, err = call("predict", "graft", "--text", "caf\udce9", "--json", capsys=capsys)
    assert (status, "argument 4: 'caf\\udce9' is no Unicode text" in err) == (2, True)


def test_a_text_that_csv_writes_in_quotes_may_begin_with_a_blank_and_a_quote(tmp_path):
    texts = (' "BREAKING: he said ""no"" " ', ' "x"', 'plain "y"', '\t"tab"\n')
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "a") for text in texts)])
    assert tuple(text for text, _ in read(tmp_path / "rows.csv")) == texts
