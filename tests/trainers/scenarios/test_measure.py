"""The verb `profile --scenario`: a graft in this process, and a server that answers over HTTP."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import topgraft
from registry.place import Place
from tests.command import call
from tests.grafts import make
from tests.tiny import as_json, rows, write_config, write_csv
from trainers.data.batches import Examples
from trainers.scenarios.load import run
from trainers.scenarios.systems import GraftSystem


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_path):
    """A folder with a trained graft, and labelled rows beside it."""
    folder = tmp_path_factory.mktemp("scenario")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = write_config(folder / "config.py", tiny_path, folder, optimizer="Optimizer(learning_rate=5e-3)")
        words = ["train", str(config), "--workdir", "run", "--quiet"]
        assert topgraft.main([*words, "--set", "adapter.method=probe", "--set", "plan.stages=all"]) == 0
    write_csv(folder / "rows.csv", rows(24, seed=5))
    return folder


def profiled(folder, *words, capsys):
    status, out, err = call("profile", *words, "--json", "--quiet", capsys=capsys)
    return status, as_json(out), err


@pytest.mark.parametrize("scenario", ["single_stream", "server", "offline"])
def test_a_scenario_measures_and_scores_at_once(scenario, folder, capsys):
    words = ["--scenario", scenario, "--file", folder / "rows.csv", "--seconds", "0.2", "--seed", "3"]
    words += ["--rate", "300"] if scenario == "server" else []
    status, result, err = profiled(folder, folder / "run/graft", *words, "--min-score", "0", capsys=capsys)
    assert status == 0, err
    status, out, _ = call("evaluate", folder / "run/graft", "--file", folder / "rows.csv", "--json", capsys=capsys)
    assert (status, result["rows"]) == (0, 24)
    for metric, value in as_json(out)["metrics"]["test"].items():
        assert result["metrics"][metric] == pytest.approx(value, abs=1e-4), metric
    assert result["rows_per_second"] == pytest.approx(
        (24 if scenario == "offline" else 1) * result["queries"] / result["seconds"]
    )
    assert result["failures"] == 0
    ordered = [one["ms"] for one in result["latencies"]]
    assert ordered == sorted(ordered)
    assert len(ordered) == (0 if scenario == "offline" else 4)
    assert result["conditions"]["joules"]["quality"] in ("modelled", "measured_counter")
    answers = result["queries"] * (24 if scenario == "offline" else 1)
    assert result["joules_per_1000"] == pytest.approx(1e3 * result["conditions"]["joules"]["value"] / answers)
    assert (result["late_ms"] > 0) == (scenario == "server"), "no sleep ends at its instant"
    assert [check["verdict"] for check in result["checks"]] == ["PASS"]


@pytest.mark.parametrize("batching", [True, False])
def test_a_pass_that_fails_ends_the_run(batching):
    """A text that is none fails in the tokeniser: nobody waits for its answer for ever."""
    examples = Examples([np.zeros(4, np.int32)] * 2, np.zeros(2, np.int32), (8,))

    class Graft:
        def logits(self, texts):
            return [len(text) for text in texts]

    system = GraftSystem("g", Graft(), [None, None], examples, batching=batching)
    with pytest.raises(TypeError, match="NoneType"):
        run("server", system, 2, seconds=0.2, seed=0, rate=100.0)


def test_what_is_not_kept_is_the_status(folder, capsys):
    words = [folder / "run/graft", "--scenario", "server", "--rate", "900", "--seconds", "0.1"]
    words += ["--file", folder / "rows.csv"]
    status, result, _ = profiled(folder, *words, "--max-latency-ms", "0.01", capsys=capsys)
    assert (status, result["checks"][0]["verdict"]) == (10, "FAIL")
    status, result, _ = profiled(folder, *words, "--min-score", "1.01", capsys=capsys)
    assert status == 10
    status, out, _ = call("profile", *words, "--max-latency-ms", "60000", "--quiet", capsys=capsys)
    assert status in (0, 11)
    assert "p99 ms" in out
    assert "confidence 0.99" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "5"), "--scenario: name one"),
        (("--scenario", "server", "--file", "rows.csv"), "--rate: queries a second"),
        (("--scenario", "offline", "--rate", "5"), "--rate: queries a second"),
        (("--scenario", "offline", "--max-latency-ms", "5"), "offline has no latency"),
        (("--scenario", "offline", "--file", "bare.csv"), "label"),
        (("--scenario", "offline", "--file", "absent.csv"), "absent.csv"),
        (("--scenario", "offline", "--task", "t"), "--task: belongs to a server's URL"),
        (("--scenario", "offline", "--plot", "p.svg"), "--plot"),
        (("--set", "data.text=x"), "add --scenario"),
        (("--store", "s"), "nothing is recorded there"),
        (("--scenario", "offline", "--record", "t:1"), "offline has none"),
        (("--scenario", "offline", "--cores", "4096", "--file", "rows.csv"), "--cores: 4096"),
        (("--scenario", "server", "--rate", "1e12"), "--rate: must lie in (0, 100000]"),
        (("--scenario", "server", "--rate", "1e5", "--seconds", "600"), "more than 10,000,000 queries"),
        (("--scenario", "server", "--rate", "1e-9", "--seconds", "0.1"), "no query arrives within 1 s"),
        (("--scenario", "offline", "--seconds", "1e300"), "--seconds: must lie in (0, 604800]"),
        (("--scenario", "offline", "--seed", "-1"), "--seed: must be a whole number, at least 0"),
    ],
)
def test_bad_input_is_refused(words, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "bare.csv").write_text("text\nban bas\n")
    status, _, err = call("profile", "run/graft", *words, "--quiet", capsys=capsys)
    assert (status, message in err) == (2, True), err


def test_rows_are_needed_where_the_graft_has_none(folder, capsys):
    status, _, err = call(
        "profile", folder / "run/graft", "--scenario", "offline", "--set", "data.test=", "--quiet", capsys=capsys
    )
    assert status == 2
    assert "needs labelled rows" in err


def test_recorded_latencies_are_read_by_budgets(folder, tiny, tmp_path, capsys):
    place = ["--registry", f"sqlite:///{tmp_path}/r.db", "--store", tmp_path / "store"]
    status, _, err = call("registry", "publish", folder / "run/graft", "--task", "topics", *place, capsys=capsys)
    assert status == 0, err
    budgets = tmp_path / "budgets.toml"
    promote = ["registry", "promote", "topics", "1", "--reason", "try", "--budgets", budgets, *place]
    budgets.write_text("[task.topics]\nserver.max_p99_ms = 60000\n")
    status, _, err = call(*promote, capsys=capsys)
    assert (status, "profile GRAFT --scenario server --record" in err) == (11, True), err
    words = [folder / "run/graft", "--scenario", "server", "--rate", "500", "--seconds", "0.1"]
    words += ["--file", folder / "rows.csv", "--quiet"]
    for name, message in (
        ("topics", "TASK:VERSION"),
        ("topics:0", "TASK:VERSION"),
        ("topics:+1", "TASK:VERSION"),
        ("topics:\N{ARABIC-INDIC DIGIT ONE}", "TASK:VERSION"),
        ("topics:2", "2"),
        (f"topics:{2**63}", "TASK:VERSION"),
        ("other:1", "other"),
    ):
        status, _, err = call("profile", *words, "--record", name, *place, capsys=capsys)
        assert (status, message in err) == (2, True), err
    make(tmp_path / "other", tiny, seed=1)
    assert call("registry", "publish", tmp_path / "other", "--task", "topics", *place, capsys=capsys)[0] == 0
    status, _, err = call("profile", *words, "--record", "topics:2", *place, capsys=capsys)
    assert (status, "name the version that was published from it" in err) == (2, True), err

    assert call("profile", *words, "--record", "topics:1", *place, capsys=capsys)[0] == 0
    status, _, err = call(*promote, capsys=capsys)
    assert (status, "too few answers for a bound" in err) == (11, True), err

    words[words.index("500")] = "900"  # 662 arrivals within ten times the seconds
    status, out, err = call("profile", *words, "--json", "--record", "topics:1", *place, capsys=capsys)
    assert status == 0, err
    p99 = {one["percentile"]: one for one in as_json(out)["latencies"]}[0.99]
    assert p99["ms"] <= p99["bound_ms"]
    for line, expected in (('platform = "gpu"', 11), (f"server.max_p95_ms = {p99['ms'] / 1e6}", 10), ("", 0)):
        budgets.write_text(f"[task.topics]\nserver.max_p99_ms = 60000\n{line}\n")
        status, _, err = call(*promote, capsys=capsys)
        assert status == expected, err
    budgets.write_text(f"[task.topics]\nserver.max_p99_ms = {p99['ms'] / 2}\n")
    status, _, err = call(*promote, capsys=capsys)
    assert (status, "budgets.toml:2 server.max_p99_ms" in err) == (10, True), err


def test_each_scenario_records_its_own_percentiles(folder, tmp_path, capsys):
    place = Place(f"sqlite:///{tmp_path}/r.db", str(tmp_path / "store"))
    where = ["--registry", place.registry, "--store", place.store]
    assert call("registry", "publish", folder / "run/graft", "--task", "topics", *where, capsys=capsys)[0] == 0
    words = ["--scenario", "single_stream", "--seconds", "0.05", "--file", folder / "rows.csv"]
    status, result, err = profiled(folder, folder / "run/graft", *words, "--record", "topics:1", *where, capsys=capsys)
    assert status == 0, err
    entries = {entry.name: entry for entry in place.open().measurements("topics", 1)}
    assert [f"single_stream p{q}, ms" for q in (50, 95, 99)] == list(entries)
    for one in result["latencies"]:
        if (name := f"single_stream p{100 * one['percentile']:g}, ms") in entries:
            detail = {"queries": result["queries"], "failures": 0, "rate": None, "seed": 0, "platform": "cpu"}
            assert entries[name].value == one["ms"]
            assert entries[name].detail == {**detail, "bound_ms": one["bound_ms"]}


class Served:
    """A server that answers each text with its label, after a time, and fails one text."""

    def __init__(self, labels: dict[str, str], failing: str = ""):
        self.labels, self.failing, self.tokens, self.asked = labels, failing, set(), []

        async def predict(request):
            body = await request.json()
            (text,), (task,) = body["inputs"], body["tasks"]
            self.tokens.add(request.headers.get("authorization", ""))
            self.asked.append(text)
            if text == self.failing:
                return JSONResponse({"error": "busy"}, status_code=429)
            answer = {"predictions": [{"labels": [self.labels[text]]}]}
            return JSONResponse({"answers": {task: answer}})

        app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()


@pytest.mark.parametrize("scenario", ["single_stream", "server", "offline"])
def test_a_server_is_measured_over_http(scenario, folder, tmp_path, capsys):
    content = rows(24, seed=5)
    wrong = dict(content)
    wrong[content[0][0]] = "nothing like it"
    (tmp_path / "token").write_text("secret\n")
    words = ["--task", "topics", "--scenario", scenario, "--file", folder / "rows.csv", "--seconds", "0.2"]
    words += ["--rate", "300"] if scenario == "server" else []
    with Served(wrong) as served:
        url = served.url.replace("http", "HTTP")
        status, result, err = profiled(folder, url, *words, "--token-file", tmp_path / "token", capsys=capsys)
    assert status == 0, err
    assert served.tokens == {"Bearer secret"}
    assert set(served.asked) == set(wrong)
    expected = np.mean([wrong[text] == label for text, label in content])
    assert result["metrics"]["accuracy"] == pytest.approx(expected)
    assert result["conditions"]["watts"]["average"] is None
    assert "another process" in result["conditions"]["watts"]["reason"]
    assert result["joules_per_1000"] is None


def test_a_refused_query_is_a_failure_of_the_run(folder, capsys):
    content = dict(rows(24, seed=5))
    words = ["--task", "topics", "--scenario", "server", "--rate", "400", "--file", folder / "rows.csv"]
    with Served(content, failing=list(content)[3]) as served:
        status, result, err = profiled(
            folder, served.url, *words, "--seconds", "0.2", "--max-latency-ms", "60000", capsys=capsys
        )
    assert (status, result["checks"][0]["verdict"]) == (10, "FAIL"), err
    assert result["failures"] > 0
    assert "status 429" in result["failure"]


@pytest.mark.parametrize(
    ("url", "words", "message"),
    [
        ("http://127.0.0.1:9", ("--file", "rows.csv", "--task", "t"), "is a `topgraft serve` there"),
        ("http://127.0.0.1:9", ("--file", "rows.csv"), "--task NAME"),
        ("http://127.0.0.1:9/v2", ("--file", "rows.csv", "--task", "t"), "give the server alone"),
        ("http://", ("--file", "rows.csv", "--task", "t"), "expected http://HOST:PORT"),
        ("HTTP://127.0.0.1:99999", ("--file", "rows.csv", "--task", "t"), "Port out of range"),
        ("http://127.0.0.1:9", ("--task", "t"), "pass labelled rows"),
        ("http://127.0.0.1:9", ("--task", "t", "--file", "rows.csv", "--cores", "1"), "--cores: belongs to a graft"),
        ("http://127.0.0.1:9", ("--task", "t", "--file", "rows.csv", "--max-watts", "9"), "another process"),
        ("http://127.0.0.1:9", ("--task", "t", "--file", "rows.csv", "--precision", "int8"), "--precision"),
        ("http://127.0.0.1:9", ("--task", "t", "--file", "rows.csv", "--token-file", "none"), "--token-file"),
    ],
)
def test_a_server_that_cannot_be_measured_is_refused(url, words, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    status, _, err = call("profile", url, "--scenario", "offline", *words, "--quiet", capsys=capsys)
    assert (status, message in err) == (2, True), err
