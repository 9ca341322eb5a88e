"""The verb `check`, and `train` on a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import call
from tests.tiny import as_json, rows, write_csv


@pytest.fixture
def files(tmp_path):
    table = rows(120, seed=1)
    other = {"class0": "class1", "class1": "class2", "class2": "class0"}
    first = write_csv(tmp_path / "train.csv", [*table, (table[0][0].upper(), other[table[0][1]])], ("body", "kind"))
    return first, write_csv(tmp_path / "test.csv", [table[5], *rows(20, seed=2)], ("body", "kind"))


def test_the_check_says_what_files_hold(files, capsys):
    status, out, err = call("check", *files, "--json", capsys=capsys)
    assert status == 0, err
    check = as_json(out)
    assert (check["text"], check["label"], check["head"], check["metric"]) == (
        "body",
        "kind",
        "classification",
        "accuracy",
    )
    assert [(file["rows"], file["encoding"]) for file in check["files"]] == [(121, "utf-8"), (21, "utf-8")]
    assert sum(check["labels"].values()) == 142
    assert check["copies"][0]["conflict"]
    assert any(group["across"] for group in check["copies"])
    assert "data.label=kind" in [assumption["setting"] for assumption in check["assumptions"]]
    status, out, err = call("check", *files, "--set", "data.label=kind", capsys=capsys)
    assert status == 0, err
    assert "labels differ" in out
    assert "--set data.text=body" in out
    assert "--set data.label=kind" not in out, "what a person said is not assumed"


def test_the_check_imports_no_jax(files):
    program = "import sys, topgraft; topgraft.main(sys.argv[1:]); sys.exit('jax' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, "check", files[0]], env=os.environ | {"PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == 0


def test_a_file_is_trained_with_what_it_shows(files, tiny_path, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    settings = ("--set", f"backbone={tiny_path}", "--set", "plan.stages=all", "--set", "epochs=1")
    status, out, err = call("train", files[0], *settings, "--workdir", tmp_path / "run", "--json", capsys=capsys)
    assert status == 0, err
    assert len(out.splitlines()) == 1, "what is assumed and read goes to the log"
    assert "accuracy" in as_json(out)["metrics"]["dev"]
    assert [line for line in caplog.messages if line.startswith("data: train ")]
    assert "labels of equal texts differ: 1" in caplog.text
    assert "--set data.label=kind" in next(line for line in caplog.messages if line.startswith("assumed"))


def test_an_unclear_file_is_refused(tmp_path, capsys):
    lines = [f"some words of text{i},{'ab'[i % 2]},{'cd'[i // 2 % 2]}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,mood,team", *lines]))
    status, _, err = call("train", "rows.csv", capsys=capsys)
    assert status == 2
    assert "data.label='mood'" in err


def test_columns_without_a_role_are_shown(tmp_path, capsys):
    lines = [f"{1000 + i},some words of text{i},{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,text,mood", *lines]))
    status, out, err = call("check", "rows.csv", capsys=capsys)
    assert status == 0, err
    assert "  id: numbers, 20 different" in out
    assert "mood: names, 2 different, 0 blank, 1.0 words  <- label" in out


def test_a_config_says_how_its_files_are_read(config, tmp_path, capsys):
    write_csv(tmp_path / "test.csv", [*rows(20, seed=2), ("ban bas", "class9")])
    status, out, err = call("check", config, "--json", capsys=capsys)
    assert status == 0, err
    check = as_json(out)
    assert [Path(file["file"]).name for file in check["files"]] == ["train.csv", "test.csv"]
    assert check["assumptions"] == []
    assert len(check["warnings"]) == 1
    assert "test.csv:22: the label 'class9' is in no train file" in check["warnings"][0]
    status, _, err = call("check", config, "test.csv", capsys=capsys)
    assert status == 2
    assert "test.csv: name one config script, or files of rows alone" in err


def test_the_train_file_decides_whatever_the_order(files, capsys):
    first, second = files
    checks = [as_json(call("check", *some, "--json", capsys=capsys)[1]) for some in ((first, second), (second, first))]
    assert checks[0] == checks[1]


def test_the_encoding_is_that_of_the_mark(tmp_path, capsys):
    text = "body,kind\n" + "".join(f"{text},{label}\n" for text, label in rows(30))
    (tmp_path / "rows.csv").write_text(text, encoding="utf-16")
    status, out, err = call("check", "rows.csv", capsys=capsys)
    assert status == 0, err
    assert out.startswith("rows.csv: 30 rows, utf-16-le")
