"""Rows in files: one suite that every format inherits, and every way in which they can be wrong."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from adapters.heads.columns import OneLabel, SeveralLabels, Tags
from backbone.errors import InputError
from backbone.registered import load_folder, variants
from tests.trainers.data.format_writers import IMAGES, TAGGED, TEXTS
from trainers.config import Data
from trainers.config.retrain import Column, Schema
from trainers.data.formats.format import Format
from trainers.data.formats.tfds import tfds_label
from trainers.data.prepare import prepare
from trainers.data.rows import read_rows
from trainers.retrain.schema import check

ROOT = Path(__file__).resolve().parents[3]
FORMATS = variants(Format)
WRITERS = {
    module.__name__.rsplit(".", 1)[-1]: module.write for module in load_folder("tests.trainers.data.format_writers")
}

ONE, SEVERAL = OneLabel(), SeveralLabels()


def read(column=ONE, split: str = "train", **fields) -> list[tuple[str, tuple[str, ...]]]:
    return [(r.text, r.labels) for r in read_rows(Data(**fields), split, column)]


@pytest.mark.parametrize("tag", FORMATS)
def test_every_format_gives_the_same_rows(tag, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert tag in WRITERS, f"tests/trainers/data/format_writers/{tag}.py, which writes files of the format, is missing"
    chosen = FORMATS[tag]()
    if chosen.of_images:
        rows = list(read_rows(Data(**WRITERS[tag](tmp_path, IMAGES)), "train", OneLabel()))
        assert [row.labels for row in rows] == [(label,) for _, label in IMAGES]
        for row, (pixels, _) in zip(rows, IMAGES, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), pixels)
    elif chosen.labels_per == "word":
        rows = read_rows(Data(**WRITERS[tag](tmp_path, TAGGED)), "train", Tags())
        assert [(row.text, row.labels) for row in rows] == TAGGED
    else:
        expected = [(text, (label,)) for text, label in TEXTS]
        assert read(**WRITERS[tag](tmp_path, TEXTS)) == expected


def test_the_writers_are_of_formats_that_there_are():
    assert list(WRITERS) == list(FORMATS)


@pytest.mark.parametrize("tag", ["csv", "tsv_quoted", "jsonl", "parquet"])
def test_line_ends_and_nothing_in_a_text(tag, tmp_path):
    rows = [('she said "go", twice\nand left', "a"), ("naïve café", "b"), ("", "a")]
    assert read(**WRITERS[tag](tmp_path, rows)) == [(text, (label,)) for text, label in rows]


@pytest.mark.parametrize("tag", [tag for tag in FORMATS if not FORMATS[tag].of_images and not FORMATS[tag].labels_per])
def test_a_schema_reads_the_columns_of_every_format(tag, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    data = Data(**WRITERS[tag](tmp_path, TEXTS))
    text = Column("text", min=1, max=max(len(text) for text, _ in TEXTS))
    check(Schema(columns=(text, Column("label", values=("a", "b")))), data, {}, OneLabel())
    where = next(row.where for row in read_rows(data, "train", OneLabel()) if row.labels == ("b",))
    with pytest.raises(InputError, match=f"^{re.escape(where)}: label: 'b' is not allowed; known: a"):
        check(Schema(columns=(text, Column("label", values=("a",)))), data, {}, OneLabel())


def test_the_first_of_two_columns_of_a_name_is_read(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,text\nfirst,a,second\n")
    assert read(train=str(tmp_path / "rows.csv")) == [("first", ("a",))]


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("\ufefftext,label\r\nhello,a\r\nworld,b\r\n".encode())
    assert read(train=(str(path),)) == [("hello", ("a",)), ("world", ("b",))]


def test_files_are_concatenated_and_columns_can_be_named(tmp_path):
    for i in (1, 2):
        (tmp_path / f"{i}.csv").write_text(f"text {i},{i}\n")
    files = (str(tmp_path / "1.csv"), str(tmp_path / "2.csv"))
    assert read(train=files, columns=("text", "label")) == [("text 1", ("1",)), ("text 2", ("2",))]


def test_plain_tsv_takes_quotes_literally(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('sentence\tlabel\n`` it \'s "fun\t1\n"quoted" start\t0\n')
    rows = read(train=(str(path),), text="sentence", label_names=("negative", "positive"))
    assert rows == [("`` it 's \"fun", ("positive",)), ('"quoted" start', ("negative",))]


def test_label_text_in_latin_1(tmp_path):
    path = tmp_path / "TREC"
    path.write_bytes(b"0 What is a caf\xe9 ?\n1 Who \x85 ?\n")
    fields = {"format": "label_text", "encoding": "latin-1", "label_names": ("DESC", "HUM")}
    assert read(train=(str(path),), **fields) == [("What is a café ?", ("DESC",)), ("Who \x85 ?", ("HUM",))]


def test_parallel_files(tmp_path):
    (tmp_path / "t").write_text("one\u2028line\ntwo\n", encoding="utf-8")
    (tmp_path / "l").write_text("0\n1\n")
    files = (str(tmp_path / "t"), str(tmp_path / "l"))
    assert read(train=files, format="parallel") == [("one\u2028line", ("0",)), ("two", ("1",))]
    data = Data(test=files, format="parallel")
    assert prepare(data, OneLabel(), cache=tmp_path / "c").splits == ("test",), "rows to be scored alone"
    (tmp_path / "l").write_text("0\n")
    with pytest.raises(InputError, match=r"has 2 lines, .* has 1"):
        read(train=files, format="parallel")


def test_multi_label_columns(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\nx,a|b\ny,\nz,b\n")
    assert [labels for _, labels in read(SEVERAL, train=(str(tmp_path / "rows.csv"),))] == [
        ("a", "b"),
        (),
        ("b",),
    ]
    (tmp_path / "rows.jsonl").write_text('{"text": "x", "label": ["a", "b"]}\n{"text": "y", "label": []}\n')
    assert [labels for _, labels in read(SEVERAL, train=(str(tmp_path / "rows.jsonl"),))] == [("a", "b"), ()]
    with pytest.raises(InputError, match=r"rows.jsonl:1: label: a list of labels needs head.kind=multi_label"):
        read(train=(str(tmp_path / "rows.jsonl"),))


@pytest.fixture(scope="module")
def tfds_name(tmp_path_factory) -> str:
    """A data set that TFDS itself prepared, found by name through TFDS_DATA_DIR."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    code = (
        "import tensorflow_datasets as tfds\n"
        "class TinyNews(tfds.core.GeneratorBasedBuilder):\n"
        "    '''Tiny.'''\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        features = tfds.features.FeaturesDict({'text': tfds.features.Text(),\n"
        "            'label': tfds.features.ClassLabel(names=['sport', 'world'])})\n"
        "        return tfds.core.DatasetInfo(builder=self, features=features)\n"
        "    def _generate_examples(self): pass\n"
        "    def _split_generators(self, dl): return {'train': self._rows(30), 'test': self._rows(6)}\n"
        "    def _rows(self, count):\n"
        "        for i in range(count): yield i, {'text': f'text {i}', 'label': i % 2}\n"
        f"TinyNews(data_dir={str(folder)!r}, file_format='array_record').download_and_prepare()\n"
    )
    script = folder / "tiny_news.py"
    script.write_text(code)
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    script.unlink()
    assert tfds.core is not None
    return str(folder)


def test_any_tfds_name(tfds_name, tmp_path):
    code = (
        "from pathlib import Path\nfrom adapters.heads.columns import OneLabel\nfrom trainers.config import Data\n"
        "from trainers.data.prepare import prepare\n"
        "data = Data(train='tfds:tiny_news', test='tfds:tiny_news:test', dev_fraction=0.2)\n"
        "made = prepare(data, OneLabel(), cache=Path('cache'))\n"
        "rows = [t for s in ('train', 'dev', 'test') for t in zip(made.table(s).texts, made.table(s).labels)]\n"
        "import json; print(json.dumps(rows))\n"
    )
    environment = os.environ | {"TFDS_DATA_DIR": tfds_name, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 36
    for text, labels in rows:
        assert labels == ["world" if int(text.split()[1]) % 2 else "sport"]


def test_minus_one_of_tfds_is_no_label():
    names = ("sport", "world")
    assert tfds_label(np.array([1, 0]), names.__getitem__, "here") == ["world", "sport"]
    with pytest.raises(InputError, match=r"here: no label \(-1\); choose a split that has labels"):
        tfds_label(np.int64(-1), names.__getitem__, "here")


@pytest.mark.parametrize("damage", ["page", "bytes"])
def test_a_parquet_file_whose_rows_cannot_be_read(damage, tmp_path):
    texts = [b"caf\xe9"] * 3 if damage == "bytes" else [f"text {i}" for i in range(3000)]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": texts, "label": ["a"] * len(texts)}), file, compression="gzip")
    if damage == "page":
        content = bytearray(file.read_bytes())
        content[100:300] = bytes(200)
        file.write_bytes(content)
    row = "rows.parquet:row 1: text: .* is not valid UTF-8"
    message = "rows.parquet: not a readable" if damage == "page" else row
    with pytest.raises(InputError, match=message):
        read(train=(str(file),))


def test_an_unknown_tfds_name():
    with pytest.raises(InputError, match="tfds:no_such_set: TFDS does not know this name"):
        read(train="tfds:no_such_set")


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.csv", b"text,lable\nx,y\n", {}, "a.csv: has no column 'label'; nearest: lable; set data.label"),
        ("a.csv", b"text,label\n", {}, "a.csv: holds no rows"),
        ("a.csv", b"text,lable\n", {}, "a.csv: has no column 'label'"),
        ("a.csv", b"text,label\nx,y\nx,y,z\n", {}, "a.csv:3: 3 fields, expected 2"),
        ("a.csv", b'text,label\n"x,y\n', {}, "a.csv:2: .*data.format=tsv"),
        ("a.csv", b"text,label\nx,y\nb\xffd,y\n", {}, r"a.csv:3: byte 16 is not valid utf-8; .*latin-1"),
        ("a.csv", b"text,label\nx,\n", {}, "a.csv:2: label: no label"),
        ("a.csv", b"text,label\nx\0,y\n", {}, "a.csv:2: .*NUL"),
        ("a.csv", b"text,label\nx,2\n", {"label_names": ("n", "p")}, "a.csv:2: label: '2' is not 0..1"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', {}, "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", {}, "a.jsonl:1: expected a JSON object, got list"),
        ("a.jsonl", b'{"txt": "x", "label": 1}\n', {}, "a.jsonl:1: has no field 'text'; nearest: txt"),
        ("a.jsonl", b'{"text": null, "label": 1}\n', {}, "a.jsonl:1: text: expected text, got nothing"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', {}, "a.jsonl:1: text: expected text, got int"),
        ("a.jsonl", b'{"text": "x", "label": NaN}\n', {}, "a.jsonl:1: label: no label"),
        ("a.jsonl", b'{"text": "x \\ud83d", "label": 1}\n', {}, "a.jsonl:1: text: .* is not valid UTF-8: surrogates"),
        ("a.jsonl", b'{"text": "x", "label": "\\ud83d"}\n', {}, "a.jsonl:1: label: .* is not valid UTF-8"),
        (
            "a.csv",
            "text,label\nx,\u00b2\n".encode(),
            {"label_names": ("n", "p")},
            "a.csv:2: label: '\u00b2' is not 0..1",
        ),
        ("a.parquet", b"PAR1 not really", {}, "a.parquet: not a readable Parquet file"),
        ("a.txt", b"x", {}, "a.txt: format unknown from its suffix; set data.format"),
        ("a.txt", b"x\n", {"format": "label_text"}, "a.txt:1: expected LABEL, a space and the text"),
        ("a.csv", b"x", {"encoding": "utf-9"}, "data.encoding: 'utf-9' is unknown"),
    ],
)
def test_bad_rows_name_file_line_and_remedy(name, content, fields, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(train=(str(tmp_path / name),), **fields)


def test_the_shared_sets_hold_what_their_readme_says(shared_data, monkeypatch):
    """Banking77, emotion, SST-2, TREC-6: every row read, by the configs' own settings."""
    from trainers.config.load import load_config

    monkeypatch.setenv("TOPGRAFT_DATA", str(shared_data))
    counts = {}
    for name in ("banking77", "emotion", "sst2", "trec6"):
        data = load_config(name).data
        splits = [s for s in ("train", "dev", "test") if getattr(data, s)]
        rows = {s: list(read_rows(data, s, OneLabel())) for s in splits}
        counts[name] = [len(rows[s]) for s in splits] + [len({r.labels for r in rows["train"]})]
    assert counts == {
        "banking77": [10003, 3080, 77],
        "emotion": [3257, 374, 1421, 4],
        "sst2": [67349, 872, 2],
        "trec6": [5452, 500, 6],
    }
