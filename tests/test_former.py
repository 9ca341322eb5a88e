"""What the former version stored is still opened: grafts, registries, boundary caches, config scripts and seeded runs.

`tests/former` was written by that version, by `tests/former/make.py`, and no later version may change it. Each test
works on a copy, with the copy as working directory, as its config scripts name files relative to it.

A `content_id` hangs on the last bits of floating point, so on the processor and on the libraries. Where both are those
that made the fixture, the seeded runs must give the same ids. Elsewhere their tensors must lie within `TOLERANCE`.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from safetensors.numpy import load_file

import topgraft
from backbone.errors import InputError
from tests.former.runs import (
    ACCEPT,
    CHILD,
    FORMER,
    UNCURED,
    answers,
    called,
    environment,
    load_config,
    numerics,
)
from tests.registry.postgres import Postgres, binaries, running
from trainers.config.former import with_former_stages
from trainers.train import train

TOLERANCE = 1e-5


def recorded(name: str) -> dict[str, Any]:
    """Reads what the former version recorded; nothing is there while the fixture is made for the first time."""
    file = FORMER / name
    return json.loads(file.read_text()) if file.exists() else {}


MADE, EXPECTED = recorded("content_ids.json"), recorded("expected.json")


def require_near(found: Any, wanted: Any) -> None:
    """Requires equal structure, equal texts, and numbers within `TOLERANCE`."""
    if isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            require_near(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            require_near(a, b)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)
    else:
        assert found == wanted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a copy of the fixture the working directory."""
    copy = shutil.copytree(FORMER, tmp_path / "former")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Starts a PostgreSQL that holds the registry of the dump, in the database `grafts`."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    with running(folder) as started:
        restored(started)
        yield started


def restored(server: Postgres) -> None:
    """Reads the dump into a new database; lines that begin with a backslash are for psql."""
    lines = FORMER.joinpath("registry.sql").read_text().splitlines()
    host = f"host=127.0.0.1 port={server.port} user=topgraft"
    with psycopg.connect(f"{host} dbname=postgres", autocommit=True) as admin:
        admin.execute("create database grafts")
    with psycopg.connect(f"{host} dbname=grafts", autocommit=True) as database:
        database.execute("\n".join(line for line in lines if not line.startswith("\\")).encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, place: Path) -> tuple[str, ...]:
    """Gives the options that name the registry and its store."""
    if request.param == "sqlite":
        url = "sqlite:///registry.db"
    else:
        url = f"postgresql://topgraft@127.0.0.1:{request.getfixturevalue('server').port}/grafts"
    return ("--registry", url, "--store", "store")


RENAMED = {"most_lost": "max_drop"}  # fields that have another name now
GONE = {"compute_dtype": "float32", "validate": []}  # fields that are gone; only these values were recorded


def require_recorded(found: Any, wanted: Any, where: str) -> None:
    """Requires every field that was recorded, with its value; a later version may know more fields."""
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            if name in GONE:
                assert value == GONE[name], f"{where}.{name}"
                continue
            now = RENAMED.get(name, name)
            require_recorded(
                found[now] if isinstance(found, Mapping) else getattr(found, now), value, f"{where}.{name}"
            )
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, value in enumerate(wanted):
            require_recorded(found[number], value, f"{where}[{number}]")
    else:
        assert found == wanted, where


def test_the_fixture_is_whole():
    assert len(MADE["grafts"]) == 5
    assert len(MADE["tasks"]) == len(MADE["runs"]) == 3
    assert EXPECTED["grafts"].keys() == MADE["grafts"].keys()
    assert {path.stem for path in (FORMER / "configs").glob("*.py")} == EXPECTED["configs"].keys()


@pytest.mark.parametrize("name", EXPECTED.get("configs", ()))
def test_a_config_script_loads(name, place):
    config = with_former_stages(load_config(f"configs/{name}.py"))  # stages that nobody named are a climb now
    require_recorded(config, EXPECTED["configs"][name], name)


@pytest.mark.parametrize("name", MADE.get("grafts", ()))
def test_a_graft_loads_and_answers_as_before(name, place):
    graft = topgraft.load(f"grafts/{name}", "backbone")  # raises unless its canary gives the logits it came with
    assert graft.manifest.content_id == MADE["grafts"][name]
    require_near(answers(graft, EXPECTED["texts"]), EXPECTED["grafts"][name])


def test_a_registry_opens_and_its_live_grafts_answer_as_before(registry, place):
    tasks = MADE["tasks"]
    listed, audit, *shown = called(
        place,
        [
            ("registry", "list", *registry),
            ("registry", "audit", *registry),
            *(("registry", "show", task, *registry) for task in tasks),
        ],
    )
    assert {row["task"]: (row["live"], row["content_id"]) for row in listed["rows"]} == {
        task: (told["version"], told["content_id"]) for task, told in tasks.items()
    }
    assert EXPECTED["audit"] == audit
    for task, told in zip(tasks, shown, strict=True):
        assert told["content_id"] == tasks[task]["content_id"]
        assert told["lineage"]["gate"]["verdict"] == "PASS"
        graft = topgraft.load(told["folder"], "backbone")
        assert graft.manifest.content_id == told["content_id"]
        require_near(answers(graft, EXPECTED["texts"]), EXPECTED["tasks"][task])


@pytest.mark.parametrize("task", MADE.get("tasks", ()))
def test_an_unchanged_retrain_says_nothing(task, registry, place):
    command = [sys.executable, "-m", "topgraft", "retrain", f"configs/{task}.py", *registry, "--json", "--quiet"]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=place, env=environment(place / "home")
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{task}: nothing to do in {spent:.2f} CPU seconds, {wall:.2f} seconds")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert (outcome["action"], outcome["live"]) == ("nothing", MADE["tasks"][task]["version"])
    assert spent < 5


def test_cached_states_are_read_and_none_computed(place):
    """On the rows that the former version ran on, in the home that it left: pooled states, and those at a boundary."""
    line = ("train", "configs/climb.py", "--workdir", "made/climb", "--quiet")
    verified, run = called(place, [("cache", "verify"), line])
    assert verified["bytes"] == EXPECTED["cache_bytes"]
    assert [step["name"] for step in run["climb"]][:2] == ["probe", "probe_all"]
    assert run["rows_computed"] == 0
    content_id = MADE["tasks"]["climb"]["content_id"].removeprefix("sha256:")
    former = json.loads((FORMER / "store" / content_id / "manifest.json").read_text())["training"]["metrics"]
    assert run["metrics"]["test"]["accuracy"] >= former["test"]["accuracy"], "a climb chooses anew, and no worse"


NAMED = {"lora": ("--set", "plan.stages=all")}  # stages that the config leaves open, as the former version read them


def test_seeded_runs_give_the_same_grafts(place):
    """In a home without any cache; where ids are compared, compiled as then, without the flag that jaxlib needs."""
    lines = [[*told["command"], *NAMED.get(name, ())] for name, told in MADE["runs"].items()]
    if numerics() == MADE["numerics"]:
        runs = called(place, lines, "empty", child=ACCEPT + CHILD, flags=UNCURED)
    else:
        runs = called(place, lines, "empty")
    for name, found in zip(MADE["runs"], runs, strict=True):
        require_same_run(name, found, MADE["runs"][name]["content_id"], FORMER / "grafts" / name)


def require_same_run(name: str, found: dict[str, Any], content_id: str, former: Path) -> None:
    """Requires the tensors of a run, and its `content_id` where everything that decides the last bits is the same."""
    made, wanted = (load_file(graft / "graft.safetensors") for graft in (Path(found["graft"]), former))
    assert made.keys() == wanted.keys()
    for path, tensor in wanted.items():
        np.testing.assert_allclose(made[path], tensor, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{name}: {path}")
    if numerics() == MADE["numerics"]:
        assert found["content_id"] == content_id, name
    else:
        print(f"{name}: {numerics()} is not {MADE['numerics']}: compared by tensors alone")


def test_runs_of_renamed_fields_are_resumed(place):
    """Both runs of `runs/policy.py`: the finished one returns its result, the interrupted one goes on."""
    words = ("train", "runs/policy.py", "--resume", "--quiet", "--workdir")
    for former, now in (("least", "min"), ("most", "max"), ("most_lost", "max_drop")):
        with pytest.raises(InputError, match=rf"argument '{former}'; the field is now {now}$"):
            load_config("runs/policy.py")
        script = Path("runs/policy.py")
        script.write_text(re.sub(rf"\b{former}=", f"{now}=", script.read_text()))
    told = json.loads(Path("runs/finished/result.json").read_text())
    finished, resumed = called(place, [(*words, "runs/finished"), (*words, "runs/interrupted")])
    assert (finished["content_id"], finished["metrics"]) == (told["content_id"], told["metrics"])
    assert (resumed["resumed"], resumed["steps"]) == (True, told["steps"])
    require_near(resumed["metrics"], told["metrics"])
    script.write_text(script.read_text().replace("max_drop=0.05", "max_drop=0.06"))
    with pytest.raises(InputError, match=r"^--resume: retrain\.gate\.bounds .*'max_drop': 0\.05.* then, .*0\.06.* now"):
        train(load_config("runs/policy.py"), Path("runs/finished"), resume=True)


def test_new_rows_are_learnt_from_the_former_live_version(place):
    """A head is fitted anew; the bare states of the rows that were there are not computed again."""
    with Path("data/topics.csv").open("a") as file:
        file.writelines(f"{text}\n" for text in EXPECTED["new_rows"])
    options = ("--registry", "sqlite:///registry.db", "--store", "store", "--quiet")
    outcomes = called(place, [("retrain", f"configs/{task}.py", *options) for task in ("climb", "topics")])
    for found in outcomes:
        version = MADE["tasks"][found["task"]]["version"] + 1
        assert (found["action"], found["verdict"], found["live"]) == ("head", "PASS", version), found
        assert 0 < found["changes"]["changed"] <= len(EXPECTED["new_rows"])
    assert 0 < outcomes[0]["rows_computed"] <= outcomes[0]["changes"]["changed"]
