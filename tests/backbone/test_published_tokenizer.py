"""Published tokenizers: the ids of AutoTokenizer (`make goldens`), and folders that are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.errors import InputError
from backbone.exchange.importing import minilm_folder, read_tokenizer
from backbone.exchange.published_tokenizer import published_tokenizer
from backbone.exchange.tokenizer_files import read_merges, read_vocab_txt
from backbone.preprocessing import TextPreprocessing
from tests.families import family_of
from tests.published_tokenizers import (
    CUT,
    FAST,
    FOLDERS,
    POSITIONS,
    WORDS,
    byte_file,
    config,
    digest,
    imported,
    lines,
    strings,
    word_file,
    wordpieces,
    write_folder,
)

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "goldens" / "tokenizers.json").read_text())
TEXTS = strings()


def test_there_are_500_strings_and_the_golden_is_of_every_folder():
    assert sum(map(len, TEXTS.values())) == 500
    assert GOLDEN["cut"] == CUT
    assert GOLDEN["hashes"].keys() == {f"{family}: {kind}" for family, kind in FOLDERS}


@pytest.mark.parametrize(("family", "kind"), FOLDERS)
def test_ids_are_those_of_autotokenizer(family, kind, tmp_path):
    preprocessing, _ = imported(write_folder(tmp_path, family, kind), family)
    expected = GOLDEN["hashes"][f"{family}: {kind}"]
    assert len(set(expected.values())) > len(expected) - 2, "kinds of strings have ids of their own"
    for name, texts in TEXTS.items():
        rows = [row.tolist() for row in preprocessing.encode(texts, CUT)]
        assert digest(rows) == expected[name], name


@pytest.mark.parametrize("kind", ["tokenizer.json alone", "cut on the left"])
def test_a_tokenizer_that_means_the_same_keeps_its_file_and_stays_as_it_was_stored(kind, tmp_path):
    folder = write_folder(tmp_path, "bert", kind)
    made, notes = imported(folder, "bert")
    plain = TextPreprocessing.from_file_text((folder / "tokenizer.json").read_text(), POSITIONS, "x")
    assert not notes
    assert (made.preprocessing_id == plain.preprocessing_id) == (kind == "tokenizer.json alone")
    stored = TextPreprocessing.from_file_text(made.tokenizer_json, POSITIONS, "stored")
    assert stored == made
    assert stored.cuts_left == (kind == "cut on the left")


def test_the_packaged_minilm_is_kept_to_the_byte():
    spec = family_of("bert").spec(json.loads((minilm_folder() / "config.json").read_text()), set())
    made, notes = read_tokenizer(minilm_folder(), {}, family_of("bert"), spec)
    plain = TextPreprocessing.from_file_text((minilm_folder() / "tokenizer.json").read_text(), 512, "x")
    assert not notes
    assert made.preprocessing_id == plain.preprocessing_id


def test_what_replaces_a_part_of_the_file_is_noted(tmp_path):
    _, notes = imported(write_folder(tmp_path / "a", "bert", "cased by config"), "bert")
    assert notes == ("normalizer: tokenizer.json differs from transformers' BertTokenizer, which was taken",)
    folder = write_folder(tmp_path / "b", "roberta", "tokenizer.json alone")
    (folder / "tokenizer.json").write_text(json.dumps(word_file()))
    made, notes = imported(folder, "roberta")
    assert notes == ("transformers' RobertaTokenizer has no WordPiece model; tokenizer.json is taken as it is",)
    assert made.encode(["the"])[0].tolist() == [2, wordpieces()["the"], 3]


def test_words_of_a_row_that_is_cut_on_the_left(tmp_path):
    made, _ = imported(write_folder(tmp_path, "bert", "cut on the left"), "bert")
    rows, places, cut = made.encode_words([WORDS[:10], WORDS[:3]], 8)
    assert cut == 1
    assert [len(row) for row in rows] == [8, 5]
    assert places[0].tolist() == [-1] * 4 + [1, 2, 3, 4, 5, 6]
    assert places[1].tolist() == [1, 2, 3]


def test_the_padding_token_and_the_longest_input_come_from_the_config(tmp_path):
    folder = write_folder(tmp_path, "bert", "other special tokens")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": "<hole>", "unk_token": "<oov>", "cls_token": "<begin>", "sep_token": "<end>"})
    )
    made, _ = imported(folder, "bert")
    assert (made.fill, made.max_tokens) == (4, POSITIONS)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 100}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert imported(folder, "bert")[0].max_tokens == 100
    settings["max_len"] = settings.pop("model_max_length")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert imported(folder, "bert")[0].max_tokens == 100, "its former name"
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 4}
    file = json.loads((folder / "tokenizer.json").read_text()) | {
        "padding": padding | {"pad_type_id": 0, "pad_token": "<hole>"}
    }
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(FAST))
    assert imported(folder, "bert")[0].fill == 4, "that of tokenizer.json where the class keeps the file"


def test_the_class_of_the_tokenizers_own_config_goes_before_that_of_the_model(tmp_path):
    folder, room = write_folder(tmp_path, "bert", "ElectraTokenizerFast, cased"), 2000
    plain = published_tokenizer(folder, {}, "BertTokenizer", room)
    assert published_tokenizer(folder, {"tokenizer_class": "Odd"}, "BertTokenizer", room) == plain
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer_class: 'Odd' is not supported"):
        published_tokenizer(folder, {"tokenizer_class": "Odd"}, "BertTokenizer", room)


def test_lines_of_vocabularies_and_merges_are_kept_but_for_the_version_and_blanks_behind(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n# #\n## a\n\nb c\r\n", newline="")
    assert read_merges(tmp_path) == [("#", "#"), ("##", "a"), ("b", "c")]
    (tmp_path / "vocab.txt").write_text("a\u2003\r\nb\x1c\n c\n", newline="")
    assert read_vocab_txt(tmp_path) == {"a": 0, "b\x1c": 1, " c": 2}, "U+001C is white space for Python alone"


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path):
    folder = write_folder(tmp_path, "bert", "vocab.txt alone")
    plain, _ = imported(folder, "bert")
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + (folder / "vocab.txt").read_bytes())
    assert imported(folder, "bert")[0] == plain


def test_a_default_token_without_a_row_is_left_out_and_a_named_one_refused(tmp_path):
    pieces = [piece for piece in wordpieces() if piece != "[MASK]"]
    folder = write_folder(tmp_path, "bert", "vocab.txt alone")
    (folder / "vocab.txt").write_text(lines(dict.fromkeys(pieces, 0)))
    known, fields = family_of("bert"), config("bert") | {"vocab_size": len(pieces)}
    made, _ = read_tokenizer(folder, fields, known, known.spec(fields, set()))
    assert made.vocabulary == len(pieces)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "[MASK]"}))
    with pytest.raises(InputError, match="belongs to another backbone"):
        read_tokenizer(folder, fields, known, known.spec(fields, set()))


UNKNOWN = word_file(["[PAD]", "<oov>", "[CLS]", "[SEP]", "[MASK]"], added_tokens=[])
UNKNOWN["model"]["unk_token"] = "[UNK]"
SINGLE = word_file(post_processor=None)
PANIC = word_file(
    post_processor={
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": UNKNOWN}, r"unk_token: '\[UNK\]' is not in the vocabulary"),
        ({"tokenizer.json": UNKNOWN, "tokenizer_config.json": FAST}, r"tokenizer\.json: .*\[UNK\]"),
        ({"tokenizer.json": SINGLE, "tokenizer_config.json": FAST}, r"gives no token: post_processor"),
        ({"tokenizer.json": PANIC, "tokenizer_config.json": FAST}, r"tokenizer\.json: .*no entry found"),
        ({"tokenizer.json": {}}, r"tokenizer\.json: model: expected an object with a `vocab`"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: not JSON"),
        ({"tokenizer.json": "[]"}, r"tokenizer\.json: expected a JSON object"),
        ({"tokenizer.json": "version https://git-lfs.github.com/spec/v1\n"}, r"tokenizer\.json: a Git LFS pointer"),
        ({}, r"has neither tokenizer\.json nor vocab\.txt; save it"),
        ({"vocab.txt": ""}, r"vocab\.txt: empty"),
        ({"vocab.txt": "a\nb\n"}, r"unk_token: '\[UNK\]' is not in the vocabulary"),
        ({"vocab.txt": "".join(f"w{n}\n" for n in range(1999)) + "[UNK]\n"}, r"cls_token: '\[CLS\]' is not in the voc"),
        ({"vocab.txt": b"\xff\xfe"}, r"vocab\.txt: not UTF-8"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"do_lower_case": "no"}}, r"do_lower_case: expected"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"unk_token": None}}, r"unk_token: .*null"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"pad_token": 3}}, r"pad_token: expected a token"),
        (
            {"tokenizer.json": word_file(), "tokenizer_config.json": {"tokenizer_class": "Odd"}},
            r"tokenizer_class: 'Odd'",
        ),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"truncation_side": "up"}}, r"truncation_side"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"model_max_length": "x"}}, r"model_max_length"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"auto_map": {"AutoTokenizer": "x"}}}, r"auto_map"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"split_special_tokens": True}}, r"split_special"),
        ({"tokenizer.json": word_file(), "tokenizer_config.json": {"added_tokens_decoder": {"a": {}}}}, r"decoder: a"),
        (
            {"tokenizer.json": word_file(), "special_tokens_map.json": {"cls_token": []}},
            r"special_tokens_map.*cls_token",
        ),
        ({"tokenizer.json": word_file(), "added_tokens.json": {"x": "y"}}, r"added_tokens\.json: 'x'"),
        (
            {"tokenizer.json": word_file(), "added_tokens.json": {f"<{n}>": 5000 + n for n in range(2000)}},
            r"belongs to another backbone",
        ),
    ],
)
def test_a_tokenizer_that_cannot_work_is_refused_at_the_import(files, message, tmp_path):
    for name, content in files.items():
        text = json.dumps(content) if isinstance(content, dict) else content
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        imported(tmp_path, "bert")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.json": {"a": "b"}, "merges.txt": ""}, r"vocab\.json: 'a'"),
        ({"vocab.json": {"a": 0}, "merges.txt": "#version: 0.2\na b c\n"}, r"merges\.txt: line 2"),
        ({"vocab.json": {"a": 0}}, r"neither tokenizer\.json nor vocab\.json and merges\.txt"),
        ({"sentencepiece.bpe.model": "x"}, r"neither tokenizer\.json nor"),
        (
            {"tokenizer.json": byte_file(model=byte_file()["model"] | {"dropout": 0.1}), "tokenizer_config.json": FAST},
            r"tokenizer\.json: model\.dropout: ids drawn at random",
        ),
    ],
)
def test_files_of_byte_pairs_are_refused_by_line(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        imported(tmp_path, "roberta")
