"""The examples of docs/retraining.md are what their schedulers read, and name every exit status."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

import topgraft
from backbone.console.options import filled
from trainers.commands import Retrain
from trainers.retrain.fleet import WORST_FIRST

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "retraining.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, kind
    return found[0]


def parsed(words: list[str]):
    """The options as the command reads them."""
    assert words[:2] == ["topgraft", "retrain"]
    return filled(Retrain, topgraft.parser().parse_args(words[1:]))


def test_every_exit_status_is_told_in_the_order_of_their_weight():
    assert [int(x) for x in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == [0, 10, 11, 12, 75, 2, 1]
    assert ", ".join(map(str, WORST_FIRST[:2])) + "," in PAGE
    assert ", ".join(map(str, WORST_FIRST[2:])) in PAGE


def test_cron():
    line = block("cron").strip().splitlines()[-1]
    fields = line.split(None, 5)
    assert re.fullmatch(r"[\d*/,-]+( [\d*/,-]+){4}", " ".join(fields[:5]))
    assert "%" not in fields[5], "cron would end the command there"
    command = fields[5].split("&& ")[1].split(" >>")[0]
    options = parsed(shlex.split(command))
    assert options.all
    assert options.json


@pytest.mark.parametrize("status", WORST_FIRST)
def test_cron_mails_what_a_person_should_see(status, tmp_path):
    """The line runs as cron runs it, with a command that ends with `status`."""
    line = block("cron").strip().splitlines()[-1].split(None, 5)[5].replace("/srv/grafts", str(tmp_path))
    command = tmp_path / "topgraft"
    command.write_text(f'#!/bin/sh\necho "$@"\nexit {status}\n')
    command.chmod(0o755)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.py").write_text("")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if status in (0, 12, 75) else 1)
    assert done.stdout == ""
    assert (tmp_path / "retrain.jsonl").read_text() == "retrain configs/one.py --all --json --quiet\n"


def test_kubernetes():
    job = yaml.safe_load(block("yaml"))
    assert job["kind"] == "CronJob"
    spec = job["spec"]["jobTemplate"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert parsed([*container["command"], *container["args"]]).options.wait_seconds == 600
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert sorted([*codes, 0, 1, 75]) == sorted(WORST_FIRST)
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_airflow():
    tree = ast.parse(block("py"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {"AirflowSkipException", "AirflowFailException", "AirflowException"} <= names
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {2, 10, 11, 12} <= constants
    lists = [node for node in ast.walk(tree) if isinstance(node, ast.List)]
    texts = [[item.value for item in node.elts if isinstance(item, ast.Constant)] for node in lists]
    assert any(words[:2] == ["topgraft", "retrain"] for words in texts)
