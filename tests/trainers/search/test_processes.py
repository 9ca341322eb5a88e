"""A search in several processes: the trials and scores of one, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from backbone.errors import InputError
from backbone.records import decode, encode
from tests.command import ROOT
from tests.trainers.search.searches import RANKS, config_of, write_space
from trainers.search.pieces import read_pieces
from trainers.search.run import search
from trainers.search.workers import Answer, InProcesses, Job, Searched, Session, _session

GRIDS = "{'adapter.method': ('lora',), 'adapter.rank': (1, 2, 4), 'optimizer.learning_rate': (3e-3, 1e-2)},"
QUIET = ("--quiet", "--set", "data.dev_fraction=0.25", "--set", "plan.stages=top(1)", "--set", "epochs=1")


def essence(workdir: Path) -> dict:
    """What every run of one search must have in common: trials with their scores, not their times."""
    return {(p.rung, p.point): (p.steps, p.score, p.draws) for p in read_pieces(workdir)}


def start(config: Path, space: Path, workdir: Path, *more: str) -> subprocess.Popen:
    words = ["search", str(config), "--space", str(space), *QUIET, "--workdir", str(workdir), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "topgraft", *words], env=environment, stderr=subprocess.PIPE)


def wait_for_pieces(workdir: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while len(list((workdir / "trials").glob("*.json"))) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tiny_path, tmp_path_factory):
    """A config, a space, and the pieces of its search in one process."""
    from tests.tiny import write_config

    folder = tmp_path_factory.mktemp("alone")
    script = write_config(folder / "config.py", tiny_path, folder, optimizer="Optimizer(learning_rate=5e-3)")
    space = write_space(folder / "space.py", GRIDS)
    from trainers.search.space import load_space

    result = search(config_of(script), load_space(str(space)), folder / "run")
    return script, space, essence(folder / "run"), result


def test_several_processes_train_what_one_does(config, tmp_path):
    one = search(config_of(config), RANKS, tmp_path / "one", objectives=("score", "latency"))
    two = search(config_of(config), RANKS, tmp_path / "two", objectives=("score", "latency"), processes=2)
    assert essence(tmp_path / "two") == essence(tmp_path / "one")
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "trainers.search.workers" in command], "they end with the search"
    assert two.cpu_seconds > one.cpu_seconds, "those of the other processes count"
    again = search(config_of(config), RANKS, tmp_path / "again", objectives=("score", "latency"))  # compiles no more
    assert two.predicted_cpu_seconds > again.predicted_cpu_seconds + 5, "so does their start"
    spent = [piece.spent for piece in read_pieces(tmp_path / "two")]
    assert max(spent) <= two.cpu_seconds
    assert all("latency" in candidate.measures for candidate in two.candidates)
    assert all(piece.prediction_cpu_seconds for piece in read_pieces(tmp_path / "two"))


def test_a_process_that_is_killed_is_replaced(alone, tmp_path):
    script, space, pieces, _ = alone
    process = start(script, space, tmp_path / "run", "--processes", "2")
    wait_for_pieces(tmp_path / "run", 1, process)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    children[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err.decode()
    assert essence(tmp_path / "run") == pieces


def test_the_processes_of_a_killed_search_end_with_it(alone, tmp_path):
    script, space, pieces, result = alone
    process = start(script, space, tmp_path / "run", "--processes", "2")
    wait_for_pieces(tmp_path / "run", 2, process)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone, left = psutil.wait_procs(children, timeout=30)
    assert len(gone) == 2
    assert not left
    last = start(script, space, tmp_path / "run", "--processes", "2", "--resume")
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err.decode()
    assert essence(tmp_path / "run") == pieces
    from trainers.search.result import read_result

    assert read_result(tmp_path / "run").recommended == result.recommended


def test_ray_trains_what_one_process_does(alone, tmp_path, monkeypatch):
    script, space, pieces, _ = alone
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    process = start(script, space, tmp_path / "run", "--processes", "2", "--executor", "ray")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err.decode()
    assert essence(tmp_path / "run") == pieces


def test_a_sampler_that_learns_goes_step_by_step(config, tmp_path):
    with pytest.raises(InputError, match="--processes: tpe looks at each trial before it chooses the next"):
        search(config_of(config), RANKS, tmp_path / "run", sampler="tpe", processes=2)


def test_a_budget_holds_for_all_processes(config, tmp_path):
    with pytest.raises(InputError, match=r"--budget: 9 CPU seconds are less than the shared pass"):
        search(config_of(config), RANKS, tmp_path / "run", processes=3, budget=9)


def test_what_a_process_refuses_is_its_answer(config, tmp_path):
    searched = Searched(config_of(config, "backbone=nowhere"), ((("adapter.method", "probe"),),), str(tmp_path))
    from json import dumps

    answer = decode(Answer, _session(dumps(encode(searched)))({"point": "", "rung": 0, "expected": 0.0}))
    assert "nowhere" in answer.refused


class Dying:
    """A worker whose first processes end."""

    def __init__(self, deaths: int):
        self.deaths = deaths

    def ask(self, job: Job) -> Answer:
        self.deaths -= 1
        if self.deaths >= 0:
            raise ChildProcessError("a process of the search ended with status -9")
        return Answer(None, lost="no room")


def test_a_piece_at_which_two_processes_end_ends_the_search():
    job = Job("0123abcd", 0, 1.0)
    assert InProcesses([Dying(1)]).submit(job).result().lost == "no room"
    with pytest.raises(ChildProcessError, match="-9, twice at point 0123abcd"):
        InProcesses([Dying(2)]).submit(job).result()


def test_an_answer_counts_what_came_since_the_last(alone, tmp_path):
    script, _, pieces, _ = alone
    settings = (("adapter.method", "lora"), ("adapter.rank", "1"), ("optimizer.learning_rate", "0.003"))
    (tmp_path / "run").mkdir()
    session = Session(encode(Searched(config_of(script), (settings,), str(tmp_path / "run"))))
    (point,) = session._trials
    before = time.process_time()
    answers = [decode(Answer, session.train(encode(Job(point, rung, 1.0)))) for rung in (0, 1)]
    assert [(a.piece.steps, a.piece.score) for a in answers] == [pieces[rung, point][:2] for rung in (0, 1)]
    assert 0 < answers[1].cpu_seconds <= time.process_time() - before + 0.05
    assert answers[0].cpu_seconds > before, "the first one counts from the start of its process"
