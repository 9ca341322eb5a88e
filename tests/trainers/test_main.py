"""The real main on a small real task: train, resume, evaluate, predict, inspect, export; kill -9 between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import topgraft
from backbone.trees import flatten
from tests.command import ROOT, call, killed_run, run, same, tensors
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
    assert "test 80; 3 labels; lora at 6 sites" in caplog.text

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
    Path("texts.txt").write_text(f"{text}\n\nbas bal\n")
    status, out, _ = call("predict", "run/graft", "--file", "texts.txt", "--json", capsys=capsys)
    assert as_json(out)["predictions"][0] == answers[0]
    assert len(as_json(out)["predictions"]) == 3

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


@pytest.mark.parametrize("method", ["ia3", "probe"])  # ladder: tests/trainers/test_auto.py; the others below
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


def test_killed_at_several_instants_and_resumed_is_bit_identical(config, tmp_path, capsys):
    """One run killed again and again, while training and while a checkpoint is being written."""
    settings = ("--set", "epochs=12", "--set", "checkpoint_seconds=0.2")
    call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    workdir = tmp_path / "killed"
    checkpoints = workdir / "checkpoints"

    def names(temporary: bool) -> set[str]:
        found = {p.name for p in checkpoints.glob("*")} if checkpoints.is_dir() else set()
        return {n for n in found if n.isdigit() != temporary}

    killed_run(config, workdir, lambda: (workdir / "config.json").exists(), *settings)
    # in the middle of a later checkpoint, or right after it
    killed_run(config, workdir, lambda: (names(False) and names(True)) or len(names(False)) > 1, *settings, "--resume")
    done = run("train", config, "--workdir", workdir, *settings, "--quiet", "--resume", "--json")
    assert as_json(done.stdout)["resumed"]
    same(tmp_path / "whole", workdir)
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    reference = [json.loads(x)["step"] for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert steps == reference, "nothing is logged twice"


def test_resuming_another_run_is_refused_and_a_finished_one_returns(config, tmp_path, capsys, monkeypatch):
    status, out, _ = call("train", config, "--workdir", "run", "--set", "epochs=1", "--json", capsys=capsys)
    assert status == 0
    status, again, _ = call(
        "train", config, "--workdir", "run", "--set", "epochs=1", "--resume", "--json", capsys=capsys
    )
    assert as_json(again) == as_json(out)
    status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    assert status == 2
    assert "--resume" in err
    status, _, err = call("train", config, "--workdir", "run", "--set", "seed=7", "--resume", capsys=capsys)
    assert status == 2
    assert "seed (0 then, 7 now)" in err
    for content in ("{", "[]", "{}"):
        (tmp_path / "run" / "result.json").write_text(content)
        status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=1", "--resume", capsys=capsys)
        assert (status, "result.json: damaged" in err) == (2, True)
    status, _, err = call("train", config, "--workdir", tmp_path / "test.csv", capsys=capsys)
    assert (status, "test.csv: cannot be made" in err) == (2, True)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "test.csv"))
    status, _, err = call("train", config, "--workdir", "other", capsys=capsys)
    assert (status, "test.csv" in err.splitlines()[-1]) == (1, True), "no traceback where the system refuses"


def test_resuming_on_other_data_is_refused(config, tmp_path, capsys):
    checkpoints = tmp_path / "run" / "checkpoints"
    killed_run(
        config, tmp_path / "run", lambda: any(p.name.isdigit() for p in checkpoints.glob("*")), "--set", "epochs=50"
    )
    write_csv(tmp_path / "train.csv", rows(200, seed=5))
    status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=50", "--resume", capsys=capsys)
    assert status == 2
    assert "the run's data has changed" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.label=lable",), "has no column 'lable'; nearest: label"),
        (("data.train=nowhere.csv",), "nowhere.csv: no such file"),
        (("data.train=",), "data.train: names no row to train on"),
        (("data.lable=x",), "data.lable: no such field in Data; nearest: label"),
        (("adapter.rank=0",), "adapter.rank: must be a positive number"),
        (("adapter.sites=attention/qeury",), "matches no site; nearest: attention/query"),
        (("adapter.method=lore",), "adapter.method: 'lore' is unknown; nearest: lora"),
        (("epochs=many",), "epochs: 'many' is not a float"),
        (("backbone=nowhere",), "not a backbone folder"),
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


def test_a_disk_that_fills_up_leaves_a_run_that_resumes(config, tmp_path, capsys):
    """A real limit on file size stops the checkpoint; without the limit the run goes on to the same graft."""
    call("train", config, "--workdir", "whole", "--quiet", capsys=capsys)
    command = f"ulimit -f 8; exec {sys.executable} -m topgraft train {config} --workdir {tmp_path / 'run'} --quiet"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_COMPILATION_CACHE": "0"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert not (tmp_path / "run" / "graft").exists()
    status, _, err = call("train", config, "--workdir", "run", "--quiet", "--resume", capsys=capsys)
    assert status == 0, err
    same(tmp_path / "whole", tmp_path / "run")


def test_a_backbone_is_imported_from_the_command_line(tmp_path, capsys):
    status, out, _ = call("import-backbone", "minilm", "--out", "trunk", "--json", capsys=capsys)
    assert status == 0
    assert as_json(out)["parameters"] == 22_713_216
    status, out, _ = call("inspect", "trunk", capsys=capsys)
    assert "parameters: 22713216" in out
    status, _, err = call("import-backbone", "nothing", "--out", "other", capsys=capsys)
    assert status == 2
    assert "no such folder" in err
