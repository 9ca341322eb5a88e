"""Formats as variants: how they are chosen, users' own, and names of prepared rows that outlive a change of code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.heads.columns import Number, OneLabel, SeveralLabels, Tags
from backbone.errors import InputError
from backbone.variants.registered import variants
from backbone.variants.scripts import run_script
from tests.tiny import as_json, rows
from trainers.config import Data, TrainConfig
from trainers.config.load import override
from trainers.data.formats.format import Format, format_of
from trainers.data.prepare import source_of
from trainers.data.rows import read_rows

ROOT = Path(__file__).resolve().parents[3]

FILES = {
    "rows.csv": b"text,label\nhello,a\nworld,b\n",
    "rows.tsv": b"label\ttext\na\thello\n",
    "rows.jsonl": b'{"text": "x", "label": 1}\n',
    "rows.parquet": b"PAR1 any bytes PAR1",
    "numbers.csv": b"text,label\nx,3\ny,-1.5\n",
    "TREC": b"0 What is a caf\xe9 ?\n",
    "texts": b"one\ntwo\n",
    "labels": b"0\n1\n",
    "lists.json": b'{"train": [["x", "a"]], "val": [["y", "b"]]}',
    "s.bio": b"Ada B-PER\nsings O\n",
    "images": b"\0\0\x08\x03",
    "numbers": b"\0\0\x08\x01",
    "pictures/red/1.png": b"one",
    "pictures/blue/.hidden": b"",
    "pictures/blue/2.png": b"two",
}


@pytest.mark.parametrize(
    ("key", "column", "fields"),
    [
        (
            "f05faf8452bc47acc1dbe1db14b9952b",
            SeveralLabels(),
            {"train": "rows.csv", "test": ("rows.csv",), "label_names": ("a", "b")},
        ),
        (
            "dfb3b35fb1606b9ec9086a2f2b2a005f",
            OneLabel(),
            {"train": "rows.tsv", "format": "tsv_quoted", "difficulty": "x", "text_pair": "label"},
        ),
        (
            "a60060efbac90a34a68543de1465bb89",
            OneLabel(),
            {"train": ("rows.csv", "rows.jsonl"), "dev": "rows.tsv"},
        ),
        ("d02acf88879564adc09c0904029172ac", OneLabel(), {"train": "rows.parquet", "image": "img"}),
        (
            "4957283b3fe8aafaebc9962657032744",
            OneLabel(),
            {"train": "TREC", "format": "label_text", "encoding": "latin-1", "max_tokens": 64},
        ),
        ("5319bbd188ae254709b828b5783e539d", OneLabel(), {"train": ("texts", "labels"), "format": "parallel"}),
        (
            "9abb0c4ca932e7a2460f52651d4d6ef8",
            OneLabel(),
            {"train": "lists.json#train", "dev": "lists.json#val", "format": "json_lists"},
        ),
        ("9d0e73c186d5595d5c9ad17cefed5f9f", Number(), {"train": "numbers.csv"}),
        ("8ebb1a1242f08be623886f695ea81f29", Tags(), {"train": "s.bio"}),
        ("8258a0e0da6e1084f114b52e59cad1ab", OneLabel(), {"train": ("images", "numbers"), "format": "idx"}),
        ("7b3f4a6529450957bc0c07d7150f0610", OneLabel(), {"train": "pictures", "format": "image_folder"}),
    ],
)
def test_rows_prepared_by_a_former_version_keep_their_names(key, column, fields, tmp_path):
    """The keys are those of commit 0ad4644, computed there; content decides, so they hold in any folder."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert source_of(Data(**fields), column).key(3) == key


def test_an_auto_entry_is_of_the_format_that_its_prefix_or_suffix_names(tmp_path):
    names = ("a.csv", "a.TSV", "a.ndjson", "a.jsonl", "a.parquet", "a.bio", "a.conll", "tfds:glue/sst2:train")
    tags = ("csv", "tsv", "jsonl", "jsonl", "parquet", "bio", "bio", "tfds")
    assert tuple(format_of(name, "auto", "train").tag for name in names) == tags
    assert format_of("a.csv", "tsv_quoted", "train").tag == "tsv_quoted", "what data.format names goes before suffixes"
    assert format_of("part-0001", "auto", "train", image_column=True).tag == "parquet", "the only file of images"
    assert format_of("tfds:glue", "csv", "train").tag == "tfds"
    with pytest.raises(InputError, match=r"data\.test: nowhere\.txt: no such file"):
        format_of("nowhere.txt", "auto", "test")
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(InputError, match=r"data\.dev: rows\.txt: format unknown from its suffix; set data\.format"):
        format_of("rows.txt", "auto", "dev")
    (tmp_path / "my images").mkdir()
    call = r"`topgraft train image_classification --set data\.format=image_folder --set 'data\.train=my images'`"
    with pytest.raises(InputError, match=rf"set data\.format \(image_folder\); images are trained by {call}"):
        format_of("my images", "auto", "train")


def test_two_formats_of_one_suffix_have_to_be_named(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\nx,a\n")

    class Other(Format, tag="other_csv"):
        """A second format of .csv."""

        suffixes = (".csv",)

        def records(self, entries, settings):
            raise AssertionError("nobody named it")

    try:
        message = r"data\.train: rows\.csv: the formats csv and other_csv have this suffix; set data\.format"
        with pytest.raises(InputError, match=message):
            list(read_rows(Data(train="rows.csv"), "train", OneLabel()))
        assert len(list(read_rows(Data(train="rows.csv", format="csv"), "train", OneLabel()))) == 1
    finally:
        del Format.registry.variants["other_csv"], Format.registry.files["other_csv"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "csvv"}, "format: 'csvv' is unknown; nearest: csv"),
        ({"format": "tfds"}, "format: tfds is chosen by an entry that begins with tfds:"),
        ({"format": "parallel", "train": "a"}, "train: format parallel needs 2 files, texts then labels"),
        ({"format": "csv", "image": "x"}, "image: a column of images is in parquet or tfds; data.format=csv has none"),
        ({"format": "idx", "image": "x"}, "image: a column of images is in parquet or tfds; data.format=idx has none"),
        ({"format": "image_folder", "difficulty": "x"}, "difficulty: rows of images have no column of difficulty"),
    ],
)
def test_fields_that_do_not_fit_the_format(fields, message):
    with pytest.raises(InputError, match=message):
        Data(**fields)


def test_an_override_names_the_field():
    with pytest.raises(InputError, match=r"^data\.format: 'jsonll' is unknown; nearest: jsonl.*TOPGRAFT_VARIANTS"):
        override(TrainConfig(), ["data.format=jsonll"])
    with pytest.raises(InputError, match=r"data\.format: bio holds tags of words; it needs head\.kind=token_tagging"):
        override(TrainConfig(), ["data.format=bio"])


def test_text_among_images_is_refused():
    data = Data(train="tfds:glue", format="image_folder")
    with pytest.raises(
        InputError, match=r"data\.train: tfds:glue: format tfds holds text, but data\.format=image_folder"
    ):
        list(read_rows(data, "train", OneLabel()))


CHAT = '''"""A format of one's own, and a config that trains on it."""

from pathlib import Path

from adapters.specs import *
from backbone.errors import InputError
from trainers.config import *
from trainers.data.formats.format import Format, lines


class Chat(Format, tag="chat"):
    """One row a line: the label, a colon and the text."""

    suffixes = (".chat",)
    has_columns = False

    def records(self, entries, settings):
        for number, line in lines(settings.text_of(Path(entries[0]))):
            label, colon, text = line.partition(":")
            if not colon:
                raise InputError(f"{entries[0]}:{number}: expected LABEL:TEXT")
            yield f"{entries[0]}:{number}", {"text": text.strip(), "label": label}


def get_config():
    data = Data(train="train.chat", test="test.chat", format="chat", max_tokens=48)
    return TrainConfig(name="chat", backbone="BACKBONE", data=data, epochs=1, adapter=Probe())
'''


def topgraft(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "topgraft", *arguments, "--quiet"]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def test_a_config_script_brings_a_format_of_its_own(tiny_path, tmp_path):
    (tmp_path / "config.py").write_text(CHAT.replace("BACKBONE", str(tiny_path)))
    for name, count, seed in (("train", 240, 1), ("test", 80, 2)):
        lines = "".join(f"{label}: {text}\n" for text, label in rows(count, seed=seed))
        (tmp_path / f"{name}.chat").write_text(lines)
    trained = topgraft("train", "config.py", "--workdir", "run", "--json")
    assert trained.returncode == 0, trained.stderr
    result = as_json(trained.stdout)
    assert result["metrics"]["test"]["accuracy"] > 0.8

    by_suffix = topgraft("train", "config.py", "--workdir", "run2", "--set", "data.format=auto", "--json")
    assert by_suffix.returncode == 0, by_suffix.stderr
    assert as_json(by_suffix.stdout)["metrics"] == result["metrics"]

    predicted = topgraft("predict", "run/graft", "--text", rows(1)[0][0], "--json")
    assert predicted.returncode == 0, "an answer needs no data, and so no format"
    unknown = topgraft("evaluate", "run/graft", "--json")
    assert unknown.returncode == 2
    assert "data.format: 'chat' is unknown" in unknown.stderr
    assert "TOPGRAFT_VARIANTS" in unknown.stderr
    scored = topgraft("evaluate", "run/graft", "--json", TOPGRAFT_VARIANTS="config.py")
    assert scored.returncode == 0, scored.stderr
    assert as_json(scored.stdout)["metrics"]["test"] == pytest.approx(result["metrics"]["test"], rel=1e-6)

    (tmp_path / "train.chat").write_text("class1: ban\nno label here\n")
    damaged = topgraft("train", "config.py", "--workdir", "run3")
    assert damaged.returncode == 2
    assert "train.chat:2: expected LABEL:TEXT" in damaged.stderr
    misspelt = topgraft("train", "config.py", "--workdir", "run4", "--set", "data.format=chatt")
    assert misspelt.returncode == 2
    assert "data.format: 'chatt' is unknown; nearest: chat" in misspelt.stderr


def test_a_format_of_ones_own_is_known_by_its_suffix_where_its_script_is_named(tmp_path, monkeypatch):
    script = tmp_path / "chats.py"
    script.write_text(CHAT.split("def get_config")[0] + "open('ran', 'a').write('x')\n")
    (tmp_path / "train.chat").write_text("a: x\nb: y\n")
    data = Data(train="train.chat")
    with pytest.raises(InputError, match=r"train\.chat: format unknown from its suffix; set .*TOPGRAFT_VARIANTS$"):
        list(read_rows(data, "train", OneLabel()))
    monkeypatch.setenv("TOPGRAFT_VARIANTS", "chats.py")
    try:
        assert [row.text for row in read_rows(data, "train", OneLabel())] == ["x", "y"]
        assert format_of("rows.csv", "auto", "train").tag == "csv"
        assert Path("ran").read_text() == "x", "it ran once, so its class is one class"
        monkeypatch.setenv("TOPGRAFT_VARIANTS", "other.py")
        assert format_of("rows.csv", "csv", "train").tag == "csv", "a named format needs no script"
        with pytest.raises(InputError, match=r"^TOPGRAFT_VARIANTS: other\.py: FileNotFoundError"):
            format_of("rows.csv", "auto", "train")
    finally:
        del Format.registry.variants["chat"], Format.registry.files["chat"]


def test_a_change_of_a_formats_own_code_has_its_rows_read_again(tmp_path):
    (tmp_path / "train.chat").write_text("a: x\nb: y\n")
    script = tmp_path / "formats.py"
    code = CHAT.split("def get_config")[0]
    data, keys, texts = None, [], []
    try:
        for body in (code, code, code.replace("text.strip()", "text.strip().upper()")):
            script.write_text(body)
            exec(compile(body, str(script), "exec"), {"__name__": "formats"})
            data = Data(train="train.chat", format="chat")
            keys.append(source_of(data, OneLabel()).key())
            texts.append([row.text for row in read_rows(data, "train", OneLabel())])
        assert texts == [["x", "y"], ["x", "y"], ["X", "Y"]]
        assert keys[0] == keys[1] != keys[2]
        exec(compile(code.replace('"chat"', '"typed"'), "<stdin>", "exec"), {"__name__": "typed"})
        with pytest.raises(InputError, match=r"data\.format: typed is defined in <stdin>, which is no file"):
            source_of(Data(train="train.chat", format="typed"), OneLabel())
    finally:
        for tag in ("chat", "typed"):
            Format.registry.variants.pop(tag, None)
            Format.registry.files.pop(tag, None)


def test_a_change_of_a_module_beside_a_formats_file_has_its_rows_read_again(tmp_path):
    (tmp_path / "train.chat").write_text("a: x\nb: y\n")
    (tmp_path / "chat_texts.py").write_text("from chat_words import clean\n")
    (tmp_path / "chat_words.py").write_text("clean = str.strip\n")
    (tmp_path / "formats.py").write_text(
        CHAT.split("def get_config")[0]
        .replace("from pathlib", "from chat_texts import clean\nfrom pathlib", 1)
        .replace("text.strip()", "clean(text)")
    )
    data, keys = None, []
    finders = list(sys.meta_path)
    try:
        for body in ("clean = str.strip\n", "clean = str.upper\n"):
            (tmp_path / "chat_words.py").write_text(body)
            run_script(tmp_path / "formats.py")
            data = Data(train="train.chat", format="chat")
            keys.append(source_of(data, OneLabel()).key())
        assert keys[0] != keys[1]
        (tmp_path / "chat_unused.py").write_text("")
        assert source_of(data, OneLabel()).key() == keys[1]
    finally:
        sys.meta_path[:] = finders
        for name in ("chat_texts", "chat_words"):
            sys.modules.pop(name, None)
        Format.registry.variants.pop("chat", None)
        Format.registry.files.pop("chat", None)


def test_a_record_that_lacks_what_its_format_promises(tmp_path):
    (tmp_path / "rows.half").write_text("x")

    class Half(Format, tag="half"):
        """Records of a text without a label."""

        has_columns = False

        def records(self, entries, settings):
            yield "rows.half:1", {"text": "x"}

    class Columns(Format, tag="half_columns"):
        """Records with a column less than they should have."""

        def records(self, entries, settings):
            yield "rows.half:1", {"text": "x", "lable": "y"}

    try:
        message = r"rows\.half:1: a record of format half holds text; it must hold text, label"
        with pytest.raises(InputError, match=message):
            list(read_rows(Data(train="rows.half", format="half"), "train", OneLabel()))
        with pytest.raises(InputError, match=r"rows\.half:1: has no field 'label'; nearest: lable; set data\.label"):
            list(read_rows(Data(train="rows.half", format="half_columns"), "train", OneLabel()))
    finally:
        for tag in ("half", "half_columns"):
            del Format.registry.variants[tag], Format.registry.files[tag]
    assert "half" not in variants(Format)
