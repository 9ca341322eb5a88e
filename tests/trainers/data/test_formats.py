"""Rows in files: one suite that every format inherits, and every way in which they can be wrong."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from adapters.heads.columns import OneLabel, SeveralLabels, Tags
from backbone.errors import InputError
from backbone.variants.registered import load_folder, variants
from tests.packing import PACKED
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
MODULES = {module.__name__.rsplit(".", 1)[-1]: module for module in load_folder("tests.trainers.data.format_writers")}
WRITERS = {tag: module.write for tag, module in MODULES.items()}
OF_FILES = [tag for tag in FORMATS if FORMATS[tag].entry == "file"]
OF_TEXT = [tag for tag in OF_FILES if not getattr(MODULES[tag], "BINARY", False)]
WITH_COLUMNS = [tag for tag in OF_FILES if FORMATS[tag].has_columns]

ONE, SEVERAL = OneLabel(), SeveralLabels()


def read(column=ONE, split: str = "train", **fields) -> list[tuple[str, tuple[str, ...]]]:
    return [(r.text, r.labels) for r in read_rows(Data(**fields), split, column)]


@pytest.mark.parametrize("tag", FORMATS)
def test_every_format_gives_the_same_rows(tag, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert tag in WRITERS, f"tests/trainers/data/format_writers/{tag}.py, which writes files of the format, is missing"
    require_rows(tag, written(tag, tmp_path))


def written(tag: str, folder: Path) -> dict[str, Any]:
    """Writes the rows of the suite in a format, and returns the fields that read them."""
    chosen = FORMATS[tag]
    rows = IMAGES if chosen.of_images else TAGGED if chosen.labels_per == "word" else TEXTS
    return WRITERS[tag](folder, rows)


def require_rows(tag: str, fields: dict[str, Any]) -> None:
    """Requires that `fields` read the rows of the suite."""
    chosen = FORMATS[tag]()
    if chosen.of_images:
        rows = list(read_rows(Data(**fields), "train", OneLabel()))
        assert [row.labels for row in rows] == [(label,) for _, label in IMAGES]
        for row, (pixels, _) in zip(rows, IMAGES, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), pixels)
    elif chosen.labels_per == "word":
        rows = read_rows(Data(**fields), "train", Tags())
        assert [(row.text, row.labels) for row in rows] == TAGGED
    else:
        assert read(**fields) == [(text, (label,)) for text, label in TEXTS]


def entries_of(fields: dict[str, Any]) -> tuple[str, ...]:
    train = fields["train"]
    return (train,) if isinstance(train, str) else train


def rewritten(fields: dict[str, Any], change: Callable[[bytes], bytes], suffix: str = "") -> dict[str, Any]:
    """Returns the fields that read the changed files, which have another suffix at their ends."""
    names = []
    for entry in entries_of(fields):
        name, mark, part = entry.partition("#")
        content = Path(name).read_bytes()
        Path(name).unlink()
        Path(name + suffix).write_bytes(change(content))
        names.append(f"{name}{suffix}{mark}{part}")
    return fields | {"train": tuple(names)}


def as_text(change: Callable[[str], bytes]) -> Callable[[bytes], bytes]:
    """Returns a change of the text of a file with Unix line ends."""
    return lambda content: change(content.decode().replace("\r\n", "\n"))


MARKED = {
    "utf-8": lambda text: text.encode("utf-8-sig"),
    "utf-16-le": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32-le": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "utf-32-be": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
LINE_ENDS = {
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "former mac": lambda text: text.replace("\n", "\r").encode(),
    "none at the end": lambda text: text.rstrip("\n").encode(),
    "marked, windows": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
}


@pytest.mark.parametrize("how", [*MARKED, *LINE_ENDS])
@pytest.mark.parametrize("tag", OF_TEXT)
def test_marks_and_line_ends_are_no_part_of_a_text(tag, how, tmp_path):
    require_rows(tag, rewritten(written(tag, tmp_path), as_text((MARKED | LINE_ENDS)[how])))


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("tag", OF_FILES)
def test_packed_files_are_known_by_their_bytes(tag, suffix, tmp_path):
    pack = PACKED[suffix]
    fields = rewritten(written(tag, tmp_path), pack, suffix)
    require_rows(tag, fields)
    plain = [Path(entry.partition("#")[0]) for entry in entries_of(fields)]
    for path in plain:
        path.rename(path.with_suffix(""))
    entries = tuple(entry.replace(suffix, "") for entry in entries_of(fields))
    require_rows(tag, fields | {"train": entries})


@pytest.mark.parametrize("tag", WITH_COLUMNS)
def test_two_columns_of_one_name_are_refused_where_they_are_read(tag, tmp_path):
    for name in ("text", "label"):
        with pytest.raises(InputError, match=rf"rows.*{name!r}"):
            read(**MODULES[tag].doubled(tmp_path, TEXTS, name))
    assert len(read(**MODULES[tag].doubled(tmp_path, TEXTS, "more"))) == len(TEXTS), "nobody reads the doubled one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.encode() + b"\xff\n", r":{last}: byte \d+ is not valid utf-8; .*data\.encoding"),
        (lambda text: text.encode() + b"\0\n", r":{last}: holds a NUL character"),
        (lambda text: text.encode("utf-16-le"), r":1: looks like UTF-16 without a byte order mark \(utf-16-le\)"),
        (lambda text: b"\xff\xfe" + text.encode("utf-16-le") + b"\0", r":\d+: byte \d+ is not valid utf-16-le"),
    ],
    ids=["bytes", "NUL", "utf-16", "half a character"],
)
@pytest.mark.parametrize("tag", OF_TEXT)
def test_what_is_no_text_names_file_line_and_remedy(tag, change, message, tmp_path):
    fields = written(tag, tmp_path)
    path = Path(entries_of(fields)[0].partition("#")[0])
    last = path.read_bytes().count(b"\n") + 1
    column = Tags() if FORMATS[tag].labels_per else ONE
    fields = rewritten(fields, as_text(change))
    with pytest.raises(InputError, match=re.escape(path.name) + message.replace("{last}", str(last))):
        read(column, **fields)


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
        ("a.jsonl", b'{"text": "x", "label": {"a": 1, "a": 2}}\n', {}, "a.jsonl:1: the key 'a' stands twice"),
        ("a.csv", b"PAR1 and so on PAR1", {}, "a.csv: is a Parquet file, not text; set data.format=parquet"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", {}, "a.csv: is a pointer of Git LFS.*git lfs pull"),
        ("a.csv", b"text,label\nx,2\n", {"label_names": ("n", "p")}, "a.csv:2: label: '2' is not 0..1"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', {}, "a.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", {}, "a.jsonl:1: expected a JSON object, got list"),
        ("a.jsonl", b'{"txt": "x", "label": 1}\n', {}, "a.jsonl:1: has no field 'text'; nearest: txt"),
        ("a.csv", b"text , label\nx,y\n", {}, "a.csv: has no column 'text'; nearest: 'text '"),
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


@pytest.mark.parametrize(
    "document",
    [
        '[{"text": "x", "label": 1}, {"text": "y", "label": 0}]',
        '{"version": 2, "data": [{"text": "x", "label": 1}, {"text": "y", "label": 0}]}',
        '{"text": {"0": "x", "7": "y"}, "label": {"0": 1, "7": 0}}',
        '{"text": ["x", "y"], "label": [1, 0]}',
        '\ufeff{"text": "x", "label": 1}\r\n\r\n{"text": "y", "label": 0}\r\n',
    ],
)
def test_a_json_document_holds_rows_in_the_ways_that_tools_write_them(document, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(document)
    assert read(train=(str(path),)) == [("x", ("1",)), ("y", ("0",))]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "several lists of rows \\(a, b\\)"),
        ('{"text": ["x", "y"], "label": [1]}', "expected a list of JSON objects, or an object of columns"),
        ('{"text": {"0": "x"}, "label": {"1": 1}}', "expected a list of JSON objects, or an object of columns"),
        ('[{"text": "x", "label": 1}, 3]', "#2: expected a JSON object, got int"),
        ('{"data": [{"text": "x", "label": 1, "label": 2}]}', "'label' stands twice"),
        ("[]", "holds no rows"),
    ],
)
def test_a_json_document_of_other_content_is_refused(document, message, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(document)
    with pytest.raises(InputError, match=message):
        read(train=(str(path),))


@pytest.mark.parametrize(("name", "remedy"), [("a.xlsx", "save the table as CSV"), ("a.zip", "unpack it")])
def test_a_file_that_no_format_reads_is_refused_with_its_remedy(name, remedy, tmp_path):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=remedy):
        read(train=(str(tmp_path / name),))


def test_texts_of_a_parquet_file_that_are_no_unicode_are_refused(tmp_path):
    """Arrow takes any bytes for a text, and says so only when one is read."""
    offsets = np.array([0, 2, 4], np.int32)
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"ab\xa6\xc0"))
    parquet.write_table(pa.table({"text": texts, "label": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read(train=str(tmp_path / "a.parquet"))
