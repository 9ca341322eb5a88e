"""Promotion by hand under a budget, on SQLite and PostgreSQL: blocked, excepted, expired, without a figure."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest

import topgraft
from registry.budgets.limits import utc_today
from tests.grafts import EMPTY, make
from tests.tiny import as_json

BUDGET = """\
[group.support]
tasks = ["support"]
max_cpu_seconds = 2
floors.accuracy = 0.8
"""
EXCEPTION = """
[[exception]]
task = "support"
limit = "max_cpu_seconds"
value = 6
owner = "A. Person"
reason = "a longer training, once"
until = {until}
"""
COST = {
    "wall_seconds": 3.0,
    "cpu_seconds": 2.5,
    "peak_bytes": None,
    "flops": 10.0,
    "bytes_moved": 4.0,
    "watts": None,
    "joules": {"quality": "modelled", "value": 15.0, "low": 5.0, "high": 40.0, "source": "CPU seconds"},
}


def graft(folder, tiny, seed: int, accuracy: float, costs):
    values = {**vars(EMPTY), "metrics": {"dev": {"accuracy": accuracy}}, "costs": costs}
    make(folder, tiny, seed=seed, training=type(EMPTY)(**values))
    return folder


@pytest.fixture
def call(url, store, capsys, tmp_path):
    def run(action: str, *words: object) -> tuple[int, dict]:
        place = ["--registry", url, "--store", str(store.root), "--json"]
        status = topgraft.main(["registry", action, *map(str, words), *place])
        return status, as_json(capsys.readouterr().out)

    return run


def test_blocked_excepted_and_expired(call, tiny, tmp_path):
    file = tmp_path / "team.toml"
    for number, (accuracy, costs) in enumerate([(0.9, {"train": COST, "evaluate": COST}), (0.7, {"train": COST})]):
        path = graft(tmp_path / f"graft{number}", tiny, number, accuracy, costs)
        assert call("publish", path, "--task", "support")[0] == 0
    words = ("promote", "support", 1, "--reason", "r", "--budgets", file)

    file.write_text(BUDGET)
    status, answer = call(*words)
    assert (status, answer["exit"]) == (10, 10)
    assert f"{file}:3 max_cpu_seconds: 5 CPU s, at most 2" in answer["error"], "two phases of 2.5 s"
    assert "floors" not in answer["error"]
    assert call("show", "support", 1)[1]["live"] is False

    file.write_text(BUDGET + EXCEPTION.format(until=utc_today() - timedelta(days=1)))
    status, answer = call(*words)
    assert status == 10
    assert f"the exception at {file}:6 ended on" in answer["error"]

    file.write_text(BUDGET + EXCEPTION.format(until=utc_today()))
    assert call(*words)[1]["version"] == 1, "the last day counts"

    status, answer = call("promote", "support", 2, "--reason", "r", "--budgets", file)
    assert status == 10
    assert f"{file}:4 floors.accuracy: 0.7, at least 0.8" in answer["error"]

    file.write_text("[default]\nmax_latency_ms = 5\n")
    status, answer = call("promote", "support", 2, "--reason", "r", "--budgets", file)
    assert status == 11
    assert f"{file}:2 max_latency_ms: no figure, at most 5" in answer["error"]
    file.write_text("[default]\nmax_latency = 5\n")
    assert call("promote", "support", 2, "--reason", "r", "--budgets", file)[0] == 2
    assert call("promote", "support", 2, "--reason", "r")[0] == 0, "without a file nothing is bounded"
    assert call("rollback", "support", "--reason", "r")[1]["version"] == 1, "a rollback asks no budget"


def test_a_recorded_measurement_counts(registry, published, call, tmp_path):
    file = tmp_path / "team.toml"
    file.write_text("[default]\nmax_latency_ms = 5\nsingle_stream.max_p99_ms = 9\n")
    registry.measure("task", 1, "latency, ms", 4.0, "measured_counter")
    registry.measure("task", 1, "single_stream p99, ms", 8.0, "measured_counter")
    registry.measure("task", 2, "latency, ms", 6.0, "measured_counter")
    registry.measure("task", 2, "single_stream p99, ms", None, "unavailable")
    assert call("promote", "task", 1, "--reason", "r", "--budgets", file)[0] == 0
    status, answer = call("promote", "task", 2, "--reason", "r", "--budgets", file)
    assert (status, "6 ms, at most 5" in answer["error"]) == (10, True)


LOADS = [
    ({"bound_ms": 50.0, "platform": "cpu"}, "", 0, ""),
    ({"bound_ms": 61.0, "platform": "cpu"}, "", 11, "recorded measurement; with confidence at most 61 ms"),
    ({"bound_ms": None, "platform": "cpu"}, "", 11, "too few answers for a bound"),
    ({"bound_ms": None, "platform": "cpu"}, "server.max_p99_ms = 39", 10, "40 ms, at most 39"),
    ({"bound_ms": 50.0, "platform": "cpu"}, 'platform = "cpu"', 0, ""),
    ({"bound_ms": 50.0, "platform": "cpu"}, 'platform = "gpu"', 11, "platform is gpu, the figure is of cpu"),
    ({"bound_ms": 50.0}, 'platform = "gpu"', 11, "platform is gpu, nobody recorded that of the figure"),
]


@pytest.mark.parametrize(("detail", "line", "expected", "message"), LOADS)
def test_a_percentile_passes_where_its_run_proved_it(
    registry, published, call, url, store, capsys, tmp_path, detail, line, expected, message
):
    file = tmp_path / "team.toml"
    limit = "" if line.startswith("server") else "server.max_p99_ms = 60\n"
    file.write_text(f"[default]\n{limit}{line}\n")
    registry.measure("task", 1, "server p99, ms", 40.0, "measured_counter", detail)
    status, answer = call("promote", "task", 1, "--reason", "r", "--budgets", file)
    assert (status, message in answer.get("error", "")) == (expected, True), answer
    assert "profile GRAFT --scenario server --record" in answer.get("error", "") or expected != 11
    assert call("promote", "task", 1, "--reason", "r")[0] == 0, "without a budget"
    audit = ["audit", "--registry", url, "--store", str(store.root), "--json"]
    assert topgraft.main([*audit, "--budgets", str(file)]) == expected
    assert topgraft.main([*audit, "--budgets", str(file), "--propose", str(tmp_path / "new.toml")]) in (0, 10, 11)
    capsys.readouterr()
    assert ("server.max_p99_ms" in (tmp_path / "new.toml").read_text()) == (detail["bound_ms"] is not None)
    assert topgraft.main([*audit, "--budgets", str(tmp_path / "new.toml")]) == 0, "what is proposed holds today"
    capsys.readouterr()


OF_JOULES = [("modelled", "", 10), ("measured_counter", "", 11), ("measured_counter", "max_cpu_seconds = 9\n", 0)]


@pytest.mark.parametrize(("quality", "cpu", "status"), OF_JOULES)
def test_joules_of_another_quality_are_no_figure(call, tiny, tmp_path, quality, cpu, status):
    path = graft(tmp_path / "graft", tiny, 0, 0.9, {"train": COST})
    call("publish", path, "--task", "support")
    file = tmp_path / "team.toml"
    file.write_text(f'[default]\nmax_joules = 10\njoules_quality = "{quality}"\n{cpu}')
    assert call("promote", "support", 1, "--reason", "r", "--budgets", file)[0] == status


def test_an_audit_reads_the_manifest_of_a_live_version_that_was_published_by_hand(
    call, url, store, tiny, tmp_path, capsys
):
    path = graft(tmp_path / "graft", tiny, 0, 0.9, {"train": COST})
    call("publish", path, "--task", "support")
    call("promote", "support", 1, "--reason", "r")
    (tmp_path / "team.toml").write_text("[default]\nmax_cpu_seconds = 2\nmax_flops = 100\n")
    words = ["--registry", url, "--store", str(store.root), "--budgets", str(tmp_path / "team.toml"), "--json"]
    assert topgraft.main(["audit", *words]) == 10
    over = as_json(capsys.readouterr().out)["over"]
    assert [(one["limit"], one["value"], one["bound"]) for one in over] == [("max_cpu_seconds", 2.5, 2.0)]


def test_a_rollback_takes_nothing_from_what_an_owner_spent(call, url, store, tiny, tmp_path, capsys):
    for seed in range(2):
        call("publish", graft(tmp_path / f"graft{seed}", tiny, seed, 0.9, {"train": COST}), "--task", "support")
        call("promote", "support", seed + 1, "--reason", "r")
    words = ["audit", "--registry", url, "--store", str(store.root), "--json"]
    for _ in range(2):
        assert topgraft.main(words) == 0
        (owner,) = as_json(capsys.readouterr().out)["owners"]
        assert owner["cpu_seconds"] == 5.0, "two trainings of 2.5 s, whichever is live"
        call("rollback", "support", "--reason", "r")
    shutil.rmtree(store.path(call("show", "support", 2)[1]["content_id"]))
    capsys.readouterr()
    assert topgraft.main(words) == 0
    assert as_json(capsys.readouterr().out)["owners"][0]["cpu_seconds"] == 2.5, "nobody knows what is gone"
