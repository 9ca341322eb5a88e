"""Names in a file of budgets that no task of a registry has."""

from __future__ import annotations

import pytest

import topgraft
from backbone.errors import InputError
from registry.budgets.names import unknown_names
from registry.budgets.read import read_budgets

TEXT = """\
[default]
max_flops = 5

[group.g]
tasks = ["tabl*", "topics"]

[task.topcis]
max_flops = 3
"""
EXCEPTION = """
[[exception]]
task = "{}"
limit = "max_flops"
owner = "o"
reason = "r"
until = 2030-01-01
"""


def test_a_table_that_bounds_no_task_is_named_with_the_nearest(tmp_path):
    file = tmp_path / "team.toml"
    file.write_text(TEXT + EXCEPTION.format("topics"))
    assert list(unknown_names(read_budgets(file), ["topics", "tables"])) == [
        f"{file}:7: task topcis: the registry has no such task; nearest: topics"
    ]
    assert list(unknown_names(read_budgets(file), ["topics", "topcis"])) == [
        f"{file}:4: group g: 'tabl*' is no task of the registry; known: topcis, topics"
    ]
    assert list(unknown_names(read_budgets(file), [])) == [], "a new registry"


def test_an_exception_for_a_task_that_nobody_knows_is_refused(tmp_path):
    file = tmp_path / "team.toml"
    file.write_text(TEXT + EXCEPTION.format("topcs"))
    with pytest.raises(InputError, match=r"team\.toml:10: task: 'topcs' is no task; nearest: topics, topcis"):
        list(unknown_names(read_budgets(file), ["topics"]))
    assert len(list(unknown_names(read_budgets(file), ["topcs", "tables", "topics"]))) == 1


def test_audit_and_promotion_warn(registry, published, url, store, tmp_path, caplog):
    file = tmp_path / "team.toml"
    file.write_text("[task.tsak]\nmax_flops = 3\n")
    place = ["--registry", url, "--store", str(store.root), "--budgets", str(file), "--quiet"]
    said = f"{file}:1: task tsak: the registry has no such task; nearest: task"
    assert topgraft.main(["audit", *place]) == 0
    assert said in caplog.text
    caplog.clear()
    assert topgraft.main(["registry", "promote", "task", "1", "--reason", "r", *place]) == 0
    assert said in caplog.text
