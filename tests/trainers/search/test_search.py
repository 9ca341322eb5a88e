"""A search from the config to the front: one pass, shared programs, budgets, and kills at any instant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from backbone.errors import InputError
from tests.command import ROOT, call
from tests.trainers.search.searches import RANKS, config_of, write_space
from tests.trainers.training import compiles
from trainers.search.halving import kept_of, rungs_of
from trainers.search.pieces import read_pieces
from trainers.search.result import read_result
from trainers.search.run import search
from trainers.search.space import Space, load_space
from trainers.train import train

GRIDS = "{'adapter.method': ('lora',), 'adapter.rank': (1, 2, 4), 'optimizer.learning_rate': (3e-3, 1e-2)},"
QUIET = ("--quiet", "--set", "data.dev_fraction=0.25", "--set", "plan.stages=top(1)", "--set", "epochs=1")


def essence(workdir: Path) -> dict:
    """What every run of one search must have in common: trials with their scores, not their times."""
    return {(p.rung, p.point): (p.steps, p.score, p.draws) for p in read_pieces(workdir)}


@pytest.fixture(scope="module")
def searched(tiny_path, tmp_path_factory):
    """One search of seven points, and the names of what it compiled."""
    from tests.tiny import write_config

    folder = tmp_path_factory.mktemp("search")
    script = write_config(folder / "config.py", tiny_path, folder, optimizer="Optimizer(learning_rate=5e-3)")
    with jax.log_compiles(), compiles() as names:
        result = search(config_of(script), RANKS, folder / "run", objectives=("score", "flops", "cpu_seconds"))
    return script, result, names


def test_a_search_tries_every_point_and_recommends_one_of_its_front(searched):
    _, result, _ = searched
    assert len(result.candidates) == 7
    assert not result.untried
    assert not result.ended
    assert result.recommended in {one.id for one in result.candidates if one.front}
    assert all(one.low <= one.score <= one.high for one in result.candidates)
    assert all(set(one.measures) >= {"score", "flops", "cpu_seconds", "bytes"} for one in result.candidates)
    assert all(one.measures["cpu_seconds"] > 0 for one in result.candidates)


def test_a_third_goes_on_and_no_piece_comes_twice(searched):
    _, result, _ = searched
    pieces = read_pieces(Path(result.workdir))
    by_rung = [[p.point for p in pieces if p.rung == rung and p.total > 1] for rung in range(3)]
    assert [len(set(points)) for points in by_rung] == [len(points) for points in by_rung]
    assert len(by_rung[0]) == 6
    assert kept_of(7) - 1 <= len(by_rung[1]) < 6
    assert 0 < len(by_rung[2]) <= len(by_rung[1])
    for rung, points in enumerate(by_rung):
        total = next(p.total for p in pieces if p.total > 1)
        assert {p.steps for p in pieces if p.rung == rung and p.total > 1} <= {rungs_of(total)[rung]}, points


def test_ranks_rates_and_the_probe_share_one_pass_and_one_group(searched):
    _, result, names = searched
    assert result.groups == 2, "the probe, and LoRA of every rank"
    assert 0 <= result.rows_computed <= 240, "every row at most once"
    assert names.count("step") == 2, "one program for each length of rows"


def test_a_point_alone_is_what_train_makes_of_it(searched, tmp_path):
    script, result, _ = searched
    best = next(one for one in result.candidates if one.trained == 1 and one.settings["adapter.method"] == "lora")
    settings = [f"{name}={value}" for name, value in best.settings.items()]
    alone = train(config_of(script, *settings, "select=last"), tmp_path / "alone")
    assert alone.metrics["dev"]["accuracy"] == pytest.approx(best.score, abs=1e-9)


def test_it_is_shown_in_the_terminal(searched, capsys):
    _, result, _ = searched
    status, out, _ = call("search", "show", result.workdir, capsys=capsys)
    assert status == 0
    assert result.recommended in out
    assert "front:" in out
    assert "predicted" in out
    assert json.loads(call("search", "show", result.workdir, "--json", capsys=capsys)[1])["name"] == "tiny"
    assert call("search", "show", "nowhere", capsys=capsys)[0] == 2


def test_another_search_in_its_folder_is_refused(searched):
    script, result, _ = searched
    with pytest.raises(InputError, match="holds a run already"):
        search(config_of(script), RANKS, Path(result.workdir))
    with pytest.raises(InputError, match="objectives"):
        search(config_of(script), RANKS, Path(result.workdir), resume=True)


def test_a_finished_search_gives_its_result(searched):
    script, result, _ = searched
    again = search(config_of(script), RANKS, Path(result.workdir), objectives=result.objectives, resume=True)
    assert again == result == read_result(result.workdir)


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        ({"objectives": ("score", "joules")}, (), "joules cannot be measured here"),
        ({"objectives": ("latency",)}, (), "score must be one of them"),
        ({"objectives": ("score", "watts")}, (), "no objective 'watts'"),
        ({"budget": 0.001}, (), "are less than the shared pass"),
        ({}, ("data.dev_fraction=0",), "a search compares on development rows"),
        ({}, ("target.max_memory_mb=100",), "a search does not check it"),
    ],
)
def test_bad_input_is_refused(config, tmp_path, monkeypatch, options, overrides, message):
    monkeypatch.setattr("trainers.search.objectives.meter", lambda accelerator: None)
    space = Space(grids=({"adapter.method": ("lora",), "adapter.rank": (2,)},))
    with pytest.raises(InputError) as error:
        search(config_of(config, *overrides), space, tmp_path / "run", **options)
    assert message in str(error.value)


def test_a_setting_that_fits_no_backbone_is_refused_before_a_trial(config, tmp_path):
    space = Space(grids=({"adapter.sites": ("mlp/up", "mlp/upp")},))
    with pytest.raises(InputError, match=r"adapter.sites=mlp/upp is feasible.*matches no site"):
        search(config_of(config), space, tmp_path / "run")
    assert not read_pieces(tmp_path / "run")


def test_killed_at_any_instant_it_goes_on_to_the_same_trials(config, tmp_path):
    space = write_space(tmp_path / "space.py", GRIDS)
    command = ["search", str(config), "--space", str(space), *QUIET]
    whole = tmp_path / "whole"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(workdir: Path, *more: str) -> subprocess.Popen:
        words = [sys.executable, "-m", "topgraft", *command, "--workdir", str(workdir), *more]
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    search(config_of(config), load_space(str(space)), whole)
    killed, stored = tmp_path / "killed", []
    for wait in (1, 7):  # trials stored when the process is killed
        process = start(killed, *(["--resume"] if stored else []))
        deadline = time.monotonic() + 120
        while len(list((killed / "trials").glob("*.json"))) < wait and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
        before = {path.name: path.stat().st_mtime_ns for path in (killed / "trials").glob("*.json")}
        assert all(before[name] == at for name, at in (stored[-1] if stored else {}).items()), "a trial came twice"
        stored.append(before)
    last = start(killed, "--resume")
    _, err = last.communicate()
    assert last.returncode == 0, err.decode()
    assert essence(killed) == essence(whole)
    after = {path.name: path.stat().st_mtime_ns for path in (killed / "trials").glob("*.json")}
    assert all(after[name] == at for name, at in stored[-1].items())
    assert read_result(killed).recommended == read_result(whole).recommended
    assert not list((killed / "states").iterdir())


def test_a_state_without_its_piece_is_not_trained_again(config, tmp_path):
    space = Space(grids=({"adapter.method": ("lora",), "adapter.rank": (2,)},))
    search(config_of(config), space, tmp_path / "whole")
    from trainers.search import run as running

    class Killed(BaseException):
        pass

    def kill(folder, piece):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Folder, "add", kill)
        with pytest.raises(Killed):
            search(config_of(config), space, tmp_path / "killed")
    states = list((tmp_path / "killed" / "states").iterdir())
    assert len(states) == 1
    with pytest.MonkeyPatch.context() as patch:
        trained = []
        from trainers.search import trials

        def counting(task, state, until):
            trained.append(until - state.done)
            return original(task, state, until)

        original = trials.advance
        patch.setattr(trials, "advance", counting)
        search(config_of(config), space, tmp_path / "killed", resume=True)
    assert trained[0] == 0, "the first rung lay in the state"
    assert essence(tmp_path / "killed") == essence(tmp_path / "whole")


def test_rows_that_changed_since_a_search_began_are_refused(config, tmp_path):
    space = Space(grids=({"adapter.method": ("lora",), "adapter.rank": (2,)},))
    from trainers.search import run as running

    class Killed(BaseException):
        pass

    def kill(*arguments, **options):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Rungs, "run", kill)
        with pytest.raises(Killed):
            search(config_of(config), space, tmp_path / "run")
    train_file = config.parent / "train.csv"
    train_file.write_text(train_file.read_text() + "ban bas,class0\n")
    with pytest.raises(InputError, match=r"rows of (train|dev)"):
        search(config_of(config), space, tmp_path / "run", resume=True)


def test_a_budget_tries_fewer_points_and_is_kept(config, tmp_path):
    space = Space(
        grids=({"adapter.method": ("lora",), "optimizer.learning_rate": tuple(1e-4 * i for i in range(1, 40))},)
    )
    settings = config_of(config, "epochs=3")
    single = Space(grids=({"optimizer.learning_rate": (1e-3,)},))
    search(settings, single, tmp_path / "first")  # checks the compiler and compiles, which the next ones are spared
    one = search(settings, single, tmp_path / "one")
    whole = search(settings, space, tmp_path / "whole")
    budget = one.cpu_seconds + (whole.cpu_seconds - one.cpu_seconds) / 3
    result = search(settings, space, tmp_path / "run", budget=budget, sampler="random")
    assert len(result.candidates) + len(result.untried) == 39
    assert result.candidates
    assert result.untried or result.ended.startswith("budget:"), "less was tried than without a budget"
    assert result.cpu_seconds <= 1.1 * budget
    assert result.predicted_cpu_seconds <= budget
