"""Files with a word a line: which column holds what, in which scheme, and where a file leaves doubt."""

from __future__ import annotations

import json
import logging

import pytest

from adapters.heads.columns import Tags
from backbone.errors import InputError
from trainers.config import Data
from trainers.data.rows import read_rows

ROWS = [("to New York now", ("O", "B-LOC", "I-LOC", "O")), ("10 000 francs", ("B-SUM", "I-SUM", "I-SUM"))]
WORDS = [[("to", "O"), ("New York", "B-LOC"), ("now", "O")], [("10 000", "B-SUM"), ("francs", "I-SUM")]]
PARTS = [[(w, t) for w, t in zip(text.split(), tags, strict=True)] for text, tags in ROWS]


def read(path, **fields):
    return [(row.text, row.labels) for row in read_rows(Data(train=str(path), **fields), "train", Tags())]


def written(folder, line, sentences=WORDS, name="rows.conll", before=""):
    """Writes `line(number, word, tag)` for each word, numbered from 1 in its sentence."""
    blocks = ("".join(line(i, w, t) + "\n" for i, (w, t) in enumerate(s, 1)) for s in sentences)
    (folder / name).write_text(before + "\n".join(blocks), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (lambda i, w, t: f"{w}\t{t}", {}),
        (lambda i, w, t: f"{w}\t\t{t}", {}),
        (lambda i, w, t: f"{w}{chr(9) * (1 + len(w) % 2)}{t}", {}),
        (lambda i, w, t: f"{w}\tNN\t{t}\t", {}),
        (lambda i, w, t: f"{w},{t}", {}),
        (lambda i, w, t: f'"{w}", {t}', {}),
        (lambda i, w, t: f"{w};{t}", {"delimiter": ";"}),
        (lambda i, w, t: f"{i}\t{w}\tNN\t{t}", {}),
        (lambda i, w, t: f"{i}\t{w}\t{t}\t-\t-", {}),
        (lambda i, w, t: f"{t}\t{w}", {"word_column": "2", "tag_column": "1"}),
        (lambda i, w, t: f"x\t{w}\t{t}\tB-NP", {"word_column": "2", "tag_column": "3"}),
        (lambda i, w, t: f"x\t{w}\t{t}", {"word_column": "form", "tag_column": "ne", "columns": ("x", "form", "ne")}),
    ],
)
def test_words_with_blanks_between_tabs_and_commas(line, fields, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "trainers"):
        assert read(written(tmp_path, line), **fields) == ROWS
    assert "2 words hold blanks, and are read as several words of one entity" in caplog.text


@pytest.mark.parametrize("blanks", [" ", "  ", "\t ", " \t"])
def test_any_blanks_lie_between_columns_where_words_hold_none(blanks, tmp_path):
    assert read(written(tmp_path, lambda i, w, t: f"{w}{blanks}NN {t}", PARTS)) == ROWS


def test_numbers_are_words_where_they_count_nothing(tmp_path):
    (tmp_path / "rows.bio").write_text("in O\n1-2 B-x\nyears I-x\n")
    assert read(tmp_path / "rows.bio") == [("in 1-2 years", ("O", "B-x", "I-x"))], "a range only in CoNLL-U"
    (tmp_path / "rows.bio").write_text("1 B-x\n")
    assert read(tmp_path / "rows.bio") == [("1", ("B-x",))]


def test_names_of_columns_in_the_first_line(tmp_path):
    path = written(tmp_path, lambda i, w, t: f"{w}\tNN\t{t}", before="Word\tPOS\tTag\n")
    assert read(path, word_column="Word", tag_column="Tag") == ROWS
    with pytest.raises(InputError, match=r"rows\.conll:1: 'Tag' is no BIO tag .*; names of columns go into data\.word"):
        read(path)
    with pytest.raises(InputError, match=r"rows\.conll:1: has no column 'Tags'; nearest: .*; set data\.tag_column"):
        read(path, word_column="Word", tag_column="Tags", columns=("Word", "POS", "Tag"))


def test_conllu_has_comments_ranges_and_empty_nodes(tmp_path):
    token = "{}\t{}\t_\tNOUN\t{}\t_\t0\troot\t_\t_\n".format
    text = "# sent_id = 1\n# text = vámonos # al mar\n1-2\tvámonos" + "\t_" * 8 + "\n"
    text += token(1, "vamos", "O") + token(2, "nos", "B-PER") + token("2.1", "x", "O") + token(3, "#", "I-PER")
    (tmp_path / "rows.conllu").write_text(text, encoding="utf-8")
    rows = [("vamos nos #", ("O", "B-PER", "I-PER"))]
    assert read(tmp_path / "rows.conllu") == rows, "the only column of tags"
    assert read(tmp_path / "rows.conllu", tag_column="XPOS", word_column="FORM") == rows
    plus = "# global.columns = ID FORM NE:X\n1\tvamos\tO\n2\tnos\tB-PER\n"
    (tmp_path / "rows.bio").write_text(plus, encoding="utf-8")
    assert read(tmp_path / "rows.bio", tag_column="NE:X", word_column="FORM") == [("vamos nos", ("O", "B-PER"))]


def test_a_hash_is_a_word_where_the_file_is_not_conllu(tmp_path):
    (tmp_path / "rows.bio").write_text("# O\n#tag B-x\n")
    assert read(tmp_path / "rows.bio") == [("# #tag", ("O", "B-x"))]


@pytest.mark.parametrize(
    ("tags", "scheme"), [("O I-x I-x B-x", "IOB1"), ("O B-x L-x U-x", "BILOU"), ("O I-x E-x E-x", "IOE2")]
)
def test_another_scheme_is_read_as_bio_and_said(tags, scheme, tmp_path, caplog):
    (tmp_path / "rows.bio").write_text("".join(f"w {tag}\n" for tag in tags.split()))
    with caplog.at_level(logging.INFO, "trainers"):
        assert read(tmp_path / "rows.bio") == [("w w w w", ("O", "B-x", "I-x", "B-x"))]
    assert f"rows.bio: the tags are in {scheme}, read as BIO" in caplog.text


def test_columns_of_tags_are_read_as_bio_too(tmp_path, caplog):
    rows = [("a b c", "O I-x B-x"), ("d", "I-y")]
    in_bio = [("a b c", ("O", "B-x", "B-x")), ("d", ("B-y",))]
    lists = [{"text": text.split(), "label": tags.split()} for text, tags in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{text},{tags}\n" for text, tags in rows))
    for number in (0, 1):
        (tmp_path / f"side{number}").write_text("".join(row[number] + "\n" for row in rows))
    with caplog.at_level(logging.INFO, "trainers"):
        assert read(tmp_path / "rows.jsonl") == read(tmp_path / "rows.csv") == in_bio
        sides = Data(train=(str(tmp_path / "side0"), str(tmp_path / "side1")), format="parallel")
        assert [(row.text, row.labels) for row in read_rows(sides, "train", Tags())] == in_bio
    assert caplog.text.count("the tags are in IOB1, read as BIO") == 3
    written = [{"text": str(row["text"]), "label": str(row["label"])} for row in lists]
    (tmp_path / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    assert read(tmp_path / "written.jsonl") == in_bio, "lists that pandas wrote as text"
    assert read(tmp_path / "rows.csv", label_names=("O", "B-x", "B-y")) == in_bio, "named tags are in BIO"
    with (tmp_path / "rows.csv").open("a") as file:
        file.write("e f,O B-x\n")
    with pytest.raises(InputError, match=r"rows\.csv:2: word 2 \('b'\): 'I-x' continues nothing"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ("in O\nNew York B-LOC\n", {}, r"rows.bio:2: 3 columns, expected 2; .*one tab"),
        ("in\tO\nNew York B-LOC\n", {}, r"rows.bio:2: .*one tab"),
        ("in\tO\nhere O\nNew York\tB-LOC\n", {}, r"rows.bio:3: 3 columns, expected 2"),
        ("7 NN O\n9 NN B-x\n", {}, r"rows.bio:1: the first column holds numbers only; name .* data.word_column"),
        ("1 O\n2 B-x\n3 I-x\n", {}, r"rows.bio:1: the first column holds numbers only"),
        ("a O\n\tO\n", {}, r"rows.bio:2: "),
        ("a NN O\nb NN X\n", {}, r"rows.bio:2: 'X' is no BIO tag .*; name its column in data.tag_column"),
        ("a B-NP O\nb I-NP B-x\nc O x\n", {}, r"rows.bio:3: 'x' is no BIO tag"),
        ("a B-NP B-x z\nb O O z\n", {}, r"rows.bio:1: 'z' is no BIO tag .*; name its column in data.tag_column"),
        (
            "word tag tag\na O B-x\n",
            {"word_column": "word", "tag_column": "tag"},
            r"rows.bio:2: 2 columns have the name 'tag'; set its number",
        ),
        ("a O\nb B-x\n", {"tag_column": "3"}, r"rows.bio:1: has 2 columns; data.tag_column is 3"),
        ("a U-x\nb B-x\n\nc L-x\n", {}, r"rows.bio:2: 'B-x' is the last of a sentence"),
        ("a B-x\nb O\n\nc O\nd I-x\n", {}, r"rows.bio:5: 'I-x' continues nothing"),
    ],
)
def test_files_that_leave_doubt_are_refused_by_line(content, fields, message, tmp_path):
    (tmp_path / "rows.bio").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "rows.bio", **fields)


def test_the_number_of_columns_may_change_between_sentences_where_both_are_named(tmp_path):
    """CoNLL-2005 has a column for each verb of a sentence."""
    (tmp_path / "rows.bio").write_text("a B-x V\nb O *\n\nc O V * *\n")
    assert read(tmp_path / "rows.bio", word_column="1", tag_column="2") == [("a b", ("B-x", "O")), ("c", ("O",))]
    with pytest.raises(InputError, match=r"rows\.bio:4: 5 columns, expected 3"):
        read(tmp_path / "rows.bio", tag_column="2")
    for name in ("0", "-1"):
        with pytest.raises(InputError, match="word_column: columns are numbered from 1, got"):
            Data(word_column=name)


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("# id 5239d808 domain=en", lambda w, t: f"{w} _ _ {t}"),
        ("#\thttp://de.example/a [2009-10-17]", lambda w, t: f"{w}\t{t}\tO"),
    ],
)
def test_a_line_that_tells_of_each_sentence_is_no_word(title, line, tmp_path, caplog):
    sentences = [f"{title}\n" + "".join(line(w, t) + "\n" for w, t in part) for part in PARTS]
    (tmp_path / "rows.conll").write_text("\n".join(sentences))
    with caplog.at_level(logging.INFO):
        assert read(tmp_path / "rows.conll", tag_column="2" if "\t" in title else "") == ROWS
    assert "lines before sentences are passed over" in caplog.text
    (tmp_path / "rows.conll").write_text(f"{sentences[0]}\n" + "".join(line(w, t) + "\n" for w, t in PARTS[1]))
    with pytest.raises(InputError, match=r"rows.conll:1: "):
        read(tmp_path / "rows.conll")
