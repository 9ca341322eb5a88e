"""The config that is inferred from files."""

from __future__ import annotations

import json

import pytest

from backbone.errors import InputError
from tests.tiny import rows, write_csv
from trainers.data.inference import MAX_MEASURED, infer, is_data, measured, split_named


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.csv", "train"),
        ("TREC.train.all", "train"),
        ("questions-dev.jsonl", "dev"),
        ("val_split.csv", "dev"),
        ("my_test_2024.csv.gz", "test"),
        ("test/part1.csv", "test"),
        ("latest.csv", None),
        ("contest.csv", None),
        ("train_and_test.csv", None),
        ("pytest-of-me/rows.csv", None),
    ],
)
def test_the_name_of_a_file_says_its_split(file, split):
    assert split_named(file) == split


def test_the_files_of_a_task_are_named_in_any_order(folder):
    for number, name in enumerate(("dev.csv", "test.csv", "train.csv")):
        write_csv(folder / name, rows(60, seed=number))
    config = infer(["dev.csv", "test.csv", "train.csv"]).config
    assert (config.data.train, config.data.dev, config.data.test) == (("train.csv",), ("dev.csv",), ("test.csv",))
    assert infer(["test.csv"]).config.data.train == ("test.csv",), "a file alone is trained on"


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (("train.csv", "more.csv"), (), "more.csv: its name does not say which split it is"),
        (("dev.csv", "test.csv"), (), "none of these files is the train file"),
        (("train.csv", "./train.csv"), (), "is named twice"),
        (("train.csv",), ("data.train=dev.csv",), "data.train: a file of this split is named without --set too"),
        (("train.csv", "dev.csv"), ("data.dev=more.csv",), "data.dev: a file of this split is named without --set"),
    ],
)
def test_files_that_leave_a_question_are_refused(files, settings, message, folder):
    for name in ("train.csv", "dev.csv", "test.csv", "more.csv"):
        write_csv(folder / name, rows(20))
    with pytest.raises(InputError, match=message):
        infer(files, settings)


def test_any_name_of_a_file_will_do(folder):
    for name in ("a,b.csv", "[1], two.csv", "test, x.csv"):
        write_csv(folder / name, rows(40))
        assert infer([name]).config.data.train == (name,)
    both = infer(["a,b.csv", "test, x.csv"])
    assert both.config.data.test == ("test, x.csv",)
    assert both.assumptions[0].setting == 'data.test=["test, x.csv"]', "what a person may type again"


def test_the_lengths_fit_rows_and_backbone(folder, tiny_path):
    write_csv(folder / "train.csv", [(f"{text} " * 40, label) for text, label in rows(40)])
    chosen = infer(["train.csv"], [f"backbone={tiny_path}"])
    assert chosen.config.data.max_tokens == 64, "the tiny backbone takes no more"
    assert "the backbone takes 64" in chosen.assumptions[-1].reason
    assert infer(["train.csv"], ["backbone=no-such-folder"]).config.data.max_tokens == 512
    wide = [("\u6211\u4eec\u5728\u8fd9\u91cc" * 8, "ab"[i % 2]) for i in range(20)]
    write_csv(folder / "wide.csv", [(f"{text}{i}", label) for i, (text, label) in enumerate(wide)])
    assert infer(["wide.csv"]).config.data.max_tokens == 64, "a text of 40 characters without blanks is 42 tokens"


def test_a_table_without_a_header_is_read_whole(folder):
    (folder / "rows.tsv").write_text("".join(f"{label}\t{text}\n" for text, label in rows(40)))
    chosen = infer(["rows.tsv"])
    data = chosen.config.data
    assert (data.columns, data.text, data.label) == (("column1", "column2"), "column2", "column1")
    assert chosen.columns[0].rows == 40
    lines = [f"{'abc'[i % 3]}9\t{i % 2}\t{text}" for i, (text, _) in enumerate(rows(40))]
    (folder / "two.tsv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"data\.label='column1' \(a9, b9, c9\) or --set data\.label='column2'"):
        infer(["two.tsv"])
    assert infer(["two.tsv"], ["data.label=column2"]).config.data.columns == ("column1", "column2", "column3")


def test_words_and_tags_need_no_columns(folder):
    record = {"tokens": ["in", "new", "york"], "ner_tags": ["O", "B-city", "I-city"], "id": 1}
    (folder / "rows.jsonl").write_text("".join(json.dumps(record | {"id": i}) + "\n" for i in range(9)))
    (folder / "rows.bio").write_text("in O\nnew B-city\nyork I-city\n\n" * 9)
    for name, text in (("rows.jsonl", "tokens"), ("rows.bio", "text")):
        config = infer([name]).config
        assert (config.head.kind, config.metric, config.data.text) == ("token_tagging", "entity_f1", text)


def test_several_labels_of_a_cell_are_scored_by_the_mean_over_labels(folder):
    table = [(text, ("a", "a|b", "b|c", "c")[i % 4]) for i, (text, _) in enumerate(rows(80))]
    write_csv(folder / "train.csv", table)
    config = infer(["train.csv"]).config
    assert (config.head.kind, config.metric, config.data.label_separator) == ("multi_label", "macro_f1", "|")
    assert config.head.pooling == "mean"


def test_lengths_are_those_of_rows_in_the_whole_file():
    contents = [f"{number}" for number in range(3 * MAX_MEASURED - 5)]
    contents[-3] = "x" * 50
    some = measured(contents)
    assert some == [*(str(number) for number in range(0, len(contents), 3)), "x" * 50], "every third, and the longest"
    assert measured(contents[:MAX_MEASURED]) == contents[:MAX_MEASURED]


def test_what_is_data_and_what_is_a_script(folder):
    for name in ("a.csv", "a.txt", "config.py", "script"):
        (folder / name).write_text("x")
    assert [is_data(name) for name in ("a.csv", "a.txt", "config.py", "script", "trec6", "b.txt", "b.tsv.gz")] == [
        *(True, True, False, False, False, False, True)
    ]
    assert is_data("script", ["data.format=label_text"])
    with pytest.raises(InputError, match=r"a\.txt: format unknown from its suffix; set data\.format"):
        infer(["a.txt"])


def test_images_are_sent_to_their_config(folder):
    (folder / "images").mkdir()
    with pytest.raises(InputError, match=r"topgraft train image_classification --set data.format=image_folder"):
        infer(["images"], ["data.format=image_folder"])


def test_rows_of_other_splits_in_the_train_file_are_named(folder, caplog):
    every = rows(60)
    parts = [("train", "test")[i % 4 == 3] for i in range(60)]
    lines = [
        json.dumps({"text": text, "label": label, "split": part})
        for (text, label), part in zip(every, parts, strict=True)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    chosen = infer(["rows.jsonl"])
    assert chosen.config.data.label == "label"
    chosen.log()
    assert "'split' says of which split a row is (train, test), but all rows are trained on" in caplog.text
