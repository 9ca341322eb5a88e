"""Rows of pairs, numbers and tags: every format, every way they can be wrong, and how they become tokens."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from adapters.heads.columns import Number, OneLabel, Tags
from adapters.inputs import encode_inputs
from adapters.labels.tagging import NO_TAG
from adapters.specs import Classification, MultiLabel, Probe, Regression, TokenTagging
from backbone.buckets import Sides, pad, sides_of, tokens_of
from backbone.cache import row_key
from backbone.errors import InputError
from tests.tiny import WORDS
from trainers.config import Bound, Curriculum, Data, Gate, Plan, Retrain, TrainConfig
from trainers.data.examples import load_data, tokenise
from trainers.data.order import rarity_difficulty
from trainers.data.prepare import Table, prepare
from trainers.data.rows import read_rows
from trainers.data.splits import membership

PAIRS = [("a man sleeps", "he is awake", "no"), ("it rains", "it is wet", "yes"), ("x", "y", "no")]


def write(kind, folder, rows, names=("left", "right", "label")):
    path = folder / f"rows.{kind}"
    if kind in ("csv", "tsv"):
        path.write_text("\n".join({"csv": ",", "tsv": "\t"}[kind].join(map(str, row)) for row in (names, *rows)))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        parquet.write_table(pa.table({n: [row[i] for row in rows] for i, n in enumerate(names)}), path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_pairs(kind, tmp_path):
    data = Data(train=(write(kind, tmp_path, PAIRS),), text="left", text_pair="right")
    rows = list(read_rows(data, "train", OneLabel()))
    assert [(r.text, r.pair, *r.labels) for r in rows] == PAIRS
    assert rows[0].content == "a man sleeps\0he is awake"


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("csv", ("a", "", "no"), r"rows.csv:5: right: is empty; a pair needs both sides"),
        ("tsv", (" ", "b", "no"), r"rows.tsv:5: left: is empty; a pair needs both sides"),
        ("jsonl", ("a", None, "no"), r"rows.jsonl:4: right: expected text, got nothing"),
        ("parquet", ("a", None, "no"), r"rows.parquet:row 4: right: expected text, got nothing"),
        ("csv", ("a", "b\0", "no"), r"rows.csv:5: holds a NUL"),
    ],
)
def test_a_pair_with_a_missing_side(kind, row, message, tmp_path):
    data = Data(train=(write(kind, tmp_path, [*PAIRS, row]),), text="left", text_pair="right")
    with pytest.raises(InputError, match=message):
        list(read_rows(data, "train", OneLabel()))


@pytest.mark.parametrize("value", ["", "nan", "inf", "four", 10**400, None])
def test_a_target_that_is_no_number(value, tmp_path):
    rows = [("a", "b", 1), ("c", "d", value)]
    path = write("jsonl", tmp_path, rows)
    with pytest.raises(InputError, match=r"rows.jsonl:2: label: .* is not a number"):
        list(read_rows(Data(train=(path,), text="left"), "train", Number()))
    if isinstance(value, str):
        path = write("csv", tmp_path, rows)
        with pytest.raises(InputError, match=r"rows.csv:3: label: .* is not a number"):
            list(read_rows(Data(train=(path,), text="left"), "train", Number()))


BIO = "-DOCSTART- -X- O\n\nto TO O\nnew NNP B-city\nyork NNP I-city\n\n\nhello UH O\n"


def test_every_format_gives_the_same_tags(tmp_path):
    wanted = [("to new york", ("O", "B-city", "I-city")), ("hello", ("O",))]
    (tmp_path / "rows.bio").write_text(BIO)
    (tmp_path / "seq.in").write_text("to new york \nhello \n")
    (tmp_path / "seq.out").write_text("O B-city I-city \nO \n")
    split = [(text.split(), list(tags)) for text, tags in wanted]
    numbers = [(words, [("O", "B-city", "I-city").index(t) for t in tags]) for words, tags in split]
    sources = [
        Data(train=(str(tmp_path / "rows.bio"),)),
        Data(train=(str(tmp_path / "seq.in"), str(tmp_path / "seq.out")), format="parallel"),
        Data(train=(write("jsonl", tmp_path, split, ("text", "label")),)),
        Data(train=(write("parquet", tmp_path, numbers, ("text", "label")),), label_names=("O", "B-city", "I-city")),
    ]
    for data in sources:
        rows = read_rows(data, "train", Tags())
        assert [(r.text, r.labels) for r in rows] == wanted, data


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.bio", BIO.replace("B-city", "O") + "\nx X B-city\n", r"rows.bio:5: 'I-city' continues nothing"),
        ("rows.bio", BIO.replace("I-city", "I-town"), r"rows.bio:5: 'I-town' continues nothing"),
        ("rows.bio", BIO.replace("york NNP I-city", "york"), r"rows.bio:5: expected a word and its tag"),
        ("rows.bio", BIO.replace("O\n\n\nhello", "X\n\n\nhello").replace("UH O", "UH X"), r"rows.bio:8: 'X' is no BIO"),
        ("rows.bio", "\n\n", "holds no rows"),
        ("rows.jsonl", '{"text": "a b", "label": "O"}', r"rows.jsonl:1: 2 words, but 1 tags"),
        ("rows.jsonl", '{"text": ["a", "b c"], "label": "O O"}', r"rows.jsonl:1: word 2: 'b c' is no word"),
        (
            "rows.jsonl",
            '{"text": "a b", "label": "O I-x"}\n{"text": "a", "label": "B-x"}',
            r"rows.jsonl:1: word 2 \('b'\): 'I-x' continues nothing",
        ),
        ("rows.jsonl", '{"text": ["\\ud83d"], "label": "O"}', r"rows.jsonl:1: word 1: .* is not valid UTF-8"),
        ("rows.jsonl", '{"text": "", "label": ""}', r"rows.jsonl:1: a sentence without words"),
        ("rows.jsonl", '{"text": 3, "label": "O"}', r"rows.jsonl:1: text: expected a list, or text with spaces"),
    ],
)
def test_tags_that_are_wrong(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(Data(train=(str(tmp_path / name),)), "train", Tags()))


def test_a_no_break_space_is_part_of_its_word(tmp_path):
    (tmp_path / "rows.bio").write_text("10\u00a0000\t B-number\r\n", encoding="utf-8")
    (row,) = read_rows(Data(train=(str(tmp_path / "rows.bio"),)), "train", Tags())
    assert (row.text, row.labels) == ("10\u00a0000", ("B-number",))


def test_lists_in_one_json_file(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": [["a b", "x"], ["c", "y"]], "val": [["d", "x"]], "about": 1}))
    data = Data(train=(f"{path}#train",), test=(f"{path}#val",), format="json_lists", dev_fraction=0)
    assert [(r.text, r.labels) for r in read_rows(data, "train", OneLabel())] == [("a b", ("x",)), ("c", ("y",))]
    prepared = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert (prepared.table("train").texts, prepared.table("test").texts) in (
        (["a b", "c"], ["d"]),
        (["c", "a b"], ["d"]),
    )
    with pytest.raises(InputError, match=r"has no list 'vale'.*val"):
        list(read_rows(Data(train=(f"{path}#vale",), format="json_lists"), "train", OneLabel()))
    with pytest.raises(InputError, match=r"data.text_pair: files of format json_lists have no columns"):
        list(read_rows(Data(train=(f"{path}#val",), format="json_lists", text_pair="x"), "train", OneLabel()))


def test_pairs_keep_their_place_by_both_sides(tmp_path):
    rows = [(f"left {i % 40}", f"right {i}", i % 5 / 7) for i in range(200)]
    data = Data(train=(write("csv", tmp_path, rows),), text="left", text_pair="right", dev_fraction=0.3)
    prepared = prepare(data, Number(), cache=tmp_path / "cache")
    places = {text: split for split in prepared.splits for text in prepared.table(split).texts}
    assert len(places) == 200
    assert 30 < sum(split == "dev" for split in places.values()) < 90
    for text, split in places.items():
        assert membership(text, 0.3, 0.0) == split
    lefts = [{t.split("\0")[0] for t in prepared.table(split).texts} for split in ("train", "dev")]
    assert lefts[0] & lefts[1], "the left side alone decides nothing"
    other = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert other.folder != prepared.folder, "labels and numbers are prepared apart"
    read = [one.table("dev") for one in (prepared, other)]
    numbers = [{text: float(label) for text, (label,) in zip(t.texts, t.labels, strict=True)} for t in read]
    assert numbers[0] == numbers[1]


def test_targets_are_standardised_by_the_train_rows(tiny):
    table = Table(["ban", "ben", "bin"], [("1.0",), ("3.0",), ("8.0",)], ["f:1", "f:2", "f:3"], [])
    head = Regression().with_statistics_of(table.labels)
    assert (head.center, head.spread) == pytest.approx((4.0, np.std([1, 3, 8])))
    labels = tokenise(table, ("y",), head, tiny, 16)[0].labels
    assert (labels.mean(), labels.std()) == pytest.approx((0, 1), abs=1e-6)
    named = Regression(center=0.0, spread=1.0)
    assert named.with_statistics_of(table.labels) == named.with_statistics_of(None) == named
    with pytest.raises(InputError, match="every train row has the same target, 2"):
        Regression().with_statistics_of([("2.0",)] * 2)


def test_pairs_are_read_by_the_tokenizers_own_template(tiny):
    texts = [("ban ben", "bin"), ("bin " * 12, "ban " * 9)]
    encoded = encode_inputs(Classification(pair="cross"), tiny, texts, 16)
    own = Tokenizer.from_str(tiny.preprocessing.tokenizer_json)
    own.enable_truncation(16)
    for row, pair in zip(encoded.rows, texts, strict=True):
        wanted = own.encode(*pair)
        np.testing.assert_array_equal(row, np.stack([wanted.ids, wanted.type_ids], axis=1))
    ban, ben, bin_ = (5 + WORDS.index(word) for word in ("ban", "ben", "bin"))
    assert encoded.rows[0].tolist() == [[2, 0], [ban, 0], [ben, 0], [3, 0], [bin_, 1], [3, 1]]
    assert (encoded.cut, len(encoded.rows[1])) == (1, 16)
    plain, _ = tiny.preprocessing.encode_pairs(texts, 16, segments=False)
    np.testing.assert_array_equal(plain[0], encoded.rows[0][:, 0])
    apart = encode_inputs(Classification(pair="two_tower"), tiny, texts[:1], 16).rows[0]
    assert [len(side) for side in sides_of(apart)] == [4, 3]


def test_first_subwords_of_words(tiny):
    """Words split at punctuation into several tokens; a word that the tokenizer drops; words beyond the cut."""
    sentences = [["ban,ben", "bin"], ["ban", "\u200b\u0007", "ben"], ["ban"] * 20]
    rows, places, cut = tiny.preprocessing.encode_words(sentences, 8)
    assert [len(row) for row in rows] == [6, 5, 8]
    assert places[0].tolist() == [1, 4]
    assert places[1].tolist() == [1, 2, 3]
    assert places[2].tolist() == [1, 2, 3, 4, 5, 6, *[-1] * 14]
    assert cut == 1
    table = Table([" ".join(s) for s in sentences], [("O", "B-x"), ("O",) * 3, ("B-x",) * 20], ["f:1"] * 3, [])
    examples, _ = tokenise(table, ("B-x", "O"), TokenTagging(), tiny, 8)
    assert examples.labels.tolist()[0] == [NO_TAG, 1, NO_TAG, NO_TAG, 0, NO_TAG, NO_TAG, NO_TAG]
    with pytest.raises(InputError, match=r"f:1: the tag 'O' was never seen"):
        tokenise(table, ("B-x",), TokenTagging(), tiny, 8)


def test_the_key_of_a_row_names_all_of_it():
    draw = np.random.default_rng(0)
    a, b = (draw.integers(1, 99, n).astype(np.int32) for n in (6, 4))
    assert row_key(a) == hashlib.sha256(a.astype("<i4").tobytes()).digest()[:15] + b"\x01", "as it always was"
    zero, one = (np.stack([a, np.full(6, s, np.int32)], axis=1) for s in (0, 1))
    both = np.concatenate([a, b])
    sides = [Sides(a, b), Sides(b, a), Sides(a[:3], a[3:]), Sides(both[:5], both[5:])]
    rows = [a, b, both, zero, one, zero.reshape(-1), *sides]
    assert len({row_key(row) for row in rows}) == len(rows)


def test_rows_of_pairs_in_a_batch():
    a, b = np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32)
    ids, mask = pad([Sides(a, b), Sides(b, a)], 4, fill=1)
    assert ids.tolist() == [[5, 6, 7, 1], [8, 9, 1, 1], [8, 9, 1, 1], [5, 6, 7, 1]]
    assert mask.sum(axis=1).tolist() == [3, 2, 2, 3]
    ids, mask = pad([np.stack([b, [0, 1]], axis=1)], 3, fill=1)
    assert ids.tolist() == [[[8, 0], [9, 1], [1, 0]]]
    assert mask.tolist() == [[True, True, False]]
    assert tokens_of(Sides(a, b)).tolist() == [5, 6, 7, 8, 9]
    assert rarity_difficulty([Sides(a, b), b]).shape == (2,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": Regression()}, "metric: 'accuracy' is no metric of head.kind=regression; one of pearson, spearman"),
        ({"metric": "entity_f1"}, "'entity_f1' is no metric of head.kind=classification"),
        (
            {"head": MultiLabel(), "retrain": Retrain(gate=Gate(metric="matthews"))},
            "retrain.gate.metric: 'matthews' is no metric of head.kind=multi_label; one of accuracy, macro_f1",
        ),
        (
            {"retrain": Retrain(gate=Gate(bounds=(Bound(metric="pearson", at_least=0.5),)))},
            r"retrain.gate.bounds\[0\].metric: 'pearson' is no metric of head.kind=classification",
        ),
        ({"head": Classification(pair="cross")}, "data.text_pair: head.pair=cross needs the column"),
        ({"data": Data(text_pair="b")}, "head.pair: data.text_pair=b needs cross, two_tower or cosine"),
        ({"data": Data(format="bio")}, "data.format: bio holds tags of words"),
        ({"head": Classification(pooling="attention"), "adapter": Probe()}, "attention is learned by gradient"),
        (
            {"head": TokenTagging(), "metric": "entity_f1", "plan": Plan(stages="auto")},
            "plan.stages: auto fits probes to one vector per row",
        ),
        (
            {"head": TokenTagging(), "metric": "entity_f1", "curriculum": Curriculum(difficulty="probe_loss")},
            "curriculum.difficulty: probe_loss fits probes",
        ),
    ],
)
def test_configs_that_contradict_themselves(fields, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**fields)


def test_heads_that_make_no_sense():
    with pytest.raises(InputError, match="spread: must be a positive number"):
        Regression(spread=0.0)
    with pytest.raises(InputError, match="center: must be a number"):
        Regression(center=float("nan"))


def test_a_train_file_without_entities(tiny, tmp_path):
    (tmp_path / "rows.bio").write_text("ban O\n\nben O\n")
    data = Data(train=(str(tmp_path / "rows.bio"),), dev_fraction=0)
    with pytest.raises(InputError, match="no train row holds an entity"):
        load_data(data, TokenTagging(), tiny)
