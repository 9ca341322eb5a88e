"""The real main on a small real task: train, evaluate, predict, inspect; bad settings and bad data."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import topgraft
from backbone.trees import flatten
from tests.command import call, run, tensors
from tests.tiny import as_json, rows, write_csv


def test_train_evaluate_predict_inspect(config, capsys, caplog):
    status, out, err = call("train", config, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["accuracy"] > 0.9, "words betray the class"
    assert set(result["metrics"]) == {"dev", "test"}
    assert result["graft"] == "run/graft"
    for name in ("seconds", "cpu_seconds", "steps", "trainable"):
        assert result[name] > 0
    assert "test 80 (dev: 10% of train, by hash)" in caplog.text
    assert "adapter: lora at 6 sites" in caplog.text

    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("train/loss" in line for line in lines)
    assert sum("dev/accuracy" in line for line in lines) == 3
    assert list(Path("run/tensorboard").glob("events*"))

    status, out, _ = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    again = as_json(out)
    assert status == 0
    assert again["metrics"] == result["metrics"], "the stored graft gives what was reported"
    assert sum(map(sum, again["confusion"]["test"])) == again["rows"]["test"] == 80

    text = rows(1, seed=9)[0][0]
    status, out, _ = call("predict", "run/graft", "--text", text, "--text", "", "--json", capsys=capsys)
    answers = as_json(out)["predictions"]
    assert [a["text"] for a in answers] == [text, ""]
    assert answers[0]["labels"][0] in {"class0", "class1", "class2"}
    Path("texts.txt").write_bytes(f"\ufeff{text}\r\n\r\nbas bal\r\n".encode("utf-16-le"))
    status, out, _ = call("predict", "run/graft", "--file", "texts.txt", "--json", capsys=capsys)
    assert as_json(out)["predictions"][0] == answers[0]
    assert len(as_json(out)["predictions"]) == 3
    Path("rows.jsonl").write_text('{"text": "bas bal", "label": "class0"}\n')
    for table in ("train.csv", "rows.jsonl"):
        status, _, err = call("predict", "run/graft", "--file", table, capsys=capsys)
        assert status == 2
        assert "is a table with the column 'text', not a text a line" in err

    for path in ("run/graft", "run", config):
        status, out, _ = call("inspect", path, "--json", capsys=capsys)
        seen = as_json(out)
        assert status == 0
        assert seen["matched"]["lora attention/query"] == [
            "0/attention/query",
            "1/attention/query",
            "2/attention/query",
        ]
        assert 0 < seen["trainable_percent"] < 20
    status, out, _ = call("inspect", config, "--set", "adapter.method=ia3", capsys=capsys)
    assert "ia3 mlp/down" in out
    status, out, _ = call("inspect", config, "--set", "data.label_names=a,b,c,d", "--json", capsys=capsys)
    shapes = as_json(out)["tensors"]
    assert shapes["head.bias"] == "float32[4]", "the names that the config gives"

    Path("test.csv").rename("elsewhere.csv")
    Path("train.csv").unlink()
    status, out, err = call("evaluate", "run/graft", "--file", "elsewhere.csv", "--json", "--quiet", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"] == {"test": result["metrics"]["test"]}, "the files of training are not needed"


def test_the_same_seed_gives_the_same_id_and_another_does_not(config, capsys):
    """In two processes the same, in one process another."""
    arguments = ("train", config, "--set", "epochs=1", "--json", "--workdir")
    done = run(*arguments, "a")
    _, same_seed, _ = call(*arguments, "b", capsys=capsys)
    _, other_seed, _ = call(*arguments, "c", "--set", "seed=1", capsys=capsys)
    ids = [as_json(text)["content_id"] for text in (done.stdout, same_seed, other_seed)]
    assert ids[0] == ids[1] != ids[2]


def test_the_order_of_the_rows_in_the_file_does_not_matter(config, tmp_path, capsys):
    _, first, _ = call("train", config, "--workdir", "a", "--set", "epochs=1", "--json", capsys=capsys)
    table = rows(240, seed=1)
    write_csv(tmp_path / "train.csv", table[::-1])
    _, second, _ = call("train", config, "--workdir", "b", "--set", "epochs=1", "--json", capsys=capsys)
    assert as_json(first)["content_id"] == as_json(second)["content_id"]


@pytest.mark.parametrize("method", ["ia3", "probe"])  # ladder: tests/trainers/fitting/test_climb.py; the others below
def test_every_method_trains_from_the_command_line(method, config, capsys):
    status, out, err = call(
        "train", config, "--workdir", method, "--set", f"adapter.method={method}", "--json", capsys=capsys
    )
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["accuracy"] > 0.85
    assert topgraft.load(result["graft"]).predict(["ban bas"])


@pytest.mark.parametrize(
    ("method", "extra", "stages"),
    [("bottleneck", "bias", "top(1)"), ("dora", "norm,prefix", "top(1)"), ("router", "vera,ssf", "all")],
)
def test_several_methods_train_in_one_graft(method, extra, stages, config, capsys):
    settings = [f"adapter.method={method}", f"extra={extra}", f"plan.stages={stages}", "data.max_tokens=16"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", "run", *arguments, "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["accuracy"] > 0.85
    methods = {method, *extra.split(",")}
    assert {path.split(".")[1] for path in tensors(Path("run")) if path.startswith("adapter")} == methods
    graft = topgraft.load("run/graft")
    fresh = flatten(graft.model.init(jax.random.key(0))["adapter"])
    for path, leaf in flatten(graft.params["adapter"]).items():
        assert np.any(np.asarray(leaf) != np.asarray(fresh[path])), f"{path} was trained"
    for path in ("run/graft", config):
        status, out, err = call("inspect", path, *(arguments if path == config else ()), "--json", capsys=capsys)
        assert status == 0, err
        matched = as_json(out)["matched"]
        assert {name.split(" ")[0] for name in matched} == methods
    assert (as_json(out)["trainable"] > result["trainable"]) == (stages != "all"), "top(1) leaves two blocks alone"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("extra=ladder",), "extra: ladder reads hidden states and stands alone"),
        (("adapter.method=probe", "extra=bias"), "extra: probe reads hidden states and stands alone"),
        (("extra=lora",), "each method may appear once in a graft, got lora, lora"),
        (("extra=bias,dora",), "dora must come before"),
        (("extra=biass",), "'biass' is unknown; nearest: bias"),
    ],
)
def test_methods_that_do_not_go_together(settings, message, config, capsys):
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, _, err = call("train", config, "--workdir", "run", *arguments, capsys=capsys)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.label=lable",), "has no column 'lable'; nearest: label"),
        (("data.train=nowhere.csv",), "nowhere.csv: no such file"),
        (("data.train=",), "data.train: names no row to train on"),
        (("data.lable=x",), "data.lable: no such field in Data; nearest: label"),
        (("adapter.rank=0",), "adapter.rank: must be a positive number"),
        (
            ("adapter.sites=attention/qeury",),
            "adapter.sites: the pattern 'attention/qeury' matches no site; nearest: at",
        ),
        (("adapter.method=lore",), "adapter.method: 'lore' is unknown; nearest: lora"),
        (("epochs=many",), "epochs: 'many' is not a float"),
        (("backbone=nowhere",), "not a backbone folder"),
        (("name=a\n---\nlicense: mit",), "holds a line end or a control character"),
        (("data.max_tokens=65",), "max_tokens: 65 must lie in 3..64"),
        (("metric=f1",), "metric: 'f1' is no metric of head.kind=classification; one of accuracy"),
    ],
)
def test_bad_settings_exit_with_two_and_name_the_field(settings, message, config, capsys):
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", "run", *arguments, "--json", capsys=capsys)
    assert status == 2
    assert message in err
    assert as_json(out)["exit"] == 2
    assert not Path("run", "config.json").exists(), "the folder is free for the corrected command"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n", "holds no rows"),
        (b"", "holds no rows"),
        (b"text,label\nban,class0\nbas,class0\n", "one class only ('class0')"),
        (b"text,label\nban,class0\nb\xff,class1\n", "train.csv:3: byte"),
        (b"text,label\nban,class0\nbas,\n", "train.csv:3: label: no label"),
        (b"text,label\nban,class0\nbas,class1,x\n", "train.csv:3: 3 fields, expected 2"),
    ],
)
def test_bad_data_exits_with_two_and_names_file_and_line(content, message, config, tmp_path, capsys):
    (tmp_path / "train.csv").write_bytes(content)
    status, _, err = call("train", config, "--workdir", "run", capsys=capsys)
    assert status == 2
    assert message in err


def test_batches_that_are_not_finite_are_told_when_a_run_stops_early(config, capsys, caplog):
    """A rate of 1e30 makes every weight infinite at the first step; nothing is logged before the run stops."""
    wild = ("optimizer.learning_rate=1e30", "optimizer.schedule=constant", "optimizer.clip_norm=0", "epochs=4")
    early = ("data.dev_fraction=0.2", "patience=1", "select=best", "log_every=1000")
    arguments = [part for setting in (*wild, *early) for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", "run", *arguments, "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["skipped"] > 0
    assert "were skipped: loss or gradient not finite" in caplog.text
    arguments += ["--set", "log_every=1", "--set", "patience=0"]
    status, out, err = call("train", config, "--workdir", "often", *arguments, "--json", capsys=capsys)
    assert status == 0, err
    lines = [json.loads(line) for line in Path("often/metrics.jsonl").read_text().splitlines()]
    skipped = [line["train/skipped"] for line in lines if "train/skipped" in line]
    assert as_json(out)["skipped"] == sum(skipped) > max(skipped) == 1


def test_an_unknown_label_at_evaluation(config, tmp_path, capsys):
    call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    write_csv(tmp_path / "new.csv", [("ban", "class1"), ("bas", "class9")])
    status, _, err = call("evaluate", "run/graft", "--file", tmp_path / "new.csv", capsys=capsys)
    assert status == 2
    assert "new.csv:3: the label 'class9' was never seen in training" in err


def test_a_hundred_thousand_characters_train_and_are_reported(config, tmp_path, capsys, caplog):
    with (tmp_path / "train.csv").open("a") as file:
        file.write(f"{'ban ' * 25_000},class0\n")
    status, _, _ = call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    assert status == 0
    assert "rows were cut at 48 tokens" in caplog.text


def test_a_backbone_is_imported_from_the_command_line(tmp_path, capsys):
    status, out, _ = call("import-backbone", "minilm", "--out", "trunk", "--json", capsys=capsys)
    assert status == 0
    assert as_json(out)["parameters"] == 22_713_216
    status, out, _ = call("inspect", "trunk", capsys=capsys)
    assert "parameters: 22713216" in out
    status, _, err = call("import-backbone", "nothing", "--out", "other", capsys=capsys)
    assert status == 2
    assert "no such folder" in err
