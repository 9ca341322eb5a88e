"""The provenance of results: what it holds, what it refuses, and which raw runs may stand in one sum."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adapters.machine import machine_record
from benchmarks import results
from benchmarks.results import Provenance, RawRuns, same_origin, spread
from metering.machine import Machine, machine

FILES = {"adapters/a.py": "a = 1\n", "constraints.txt": "jax==1\n", "docs/page.md": "page\n", "topgraft.py": "b\n"}
HERE = Machine("a processor", ("avx", "avx2"), 2, None, "Linux x86_64")
ORIGIN = Provenance(HERE, 0.5, "sha256:1", "0" * 40, "2026-11-01", {"jax": "1"}, {}, {}, "right-0", {}, 7)


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A repository of a few files, all committed, in place of this one."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "benchmarks").mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "benchmarks" / "results")
    results.code.cache_clear()
    yield tmp_path
    results.code.cache_clear()


def parsed(*words: str) -> Provenance:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None)
    return results.parsed(parser, words)[1]


def test_the_head_of_a_run_says_where_and_how_it_was_made(tree, monkeypatch):
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    origin = parsed("--rows", "20", "--data", "a/folder")
    assert origin.machine == machine()
    assert origin.commit == git(tree, "rev-parse", "HEAD").strip()
    assert origin.flags["JAX_LOG_COMPILES"] == "1"
    assert origin.flags["OMP_NUM_THREADS"] == "2"
    assert origin.settings == {"rows": 20}, "what is as by default, and places of this machine, say nothing"
    assert (origin.seed, origin.peers, origin.known_answers) == (3, {}, machine_record().verdict)
    production = [(name, FILES[name].encode()) for name in ("adapters/a.py", "constraints.txt", "topgraft.py")]
    whole = b"".join(f"{name}\0{len(content)}\0".encode() + content for name, content in production)
    assert origin.code == f"sha256:{hashlib.sha256(whole).hexdigest()}"


def test_a_tree_that_differs_from_its_commit_is_refused(tree, capsys):
    (tree / "benchmarks" / "results").mkdir()
    (tree / "benchmarks" / "results" / "a.json").write_text("{}")
    git(tree, "add", ".")
    assert parsed().settings == {}, "results are no part of what is measured"
    (tree / "docs" / "notes.md").write_text("no code\n")
    assert parsed().settings == {}
    for name in ("constraints.txt", "docs/page.md", "adapters/new.py"):
        (tree / name).write_text("changed\n")
    with pytest.raises(SystemExit) as ended:
        parsed()
    assert ended.value.code == 2
    assert (
        "these files differ from the commit: constraints.txt, docs/page.md, adapters/new.py; commit"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (replace(ORIGIN, load=9.0, commit="1" * 40, started="later", seed=None), True),
        (replace(ORIGIN, machine=replace(HERE, cores=4)), False),
        (replace(ORIGIN, machine=replace(HERE, quota=2.0)), False),
        (replace(ORIGIN, machine=replace(HERE, instruction_sets=("avx",))), False),
        (replace(ORIGIN, code="sha256:2"), False),
    ],
    ids=["another day", "cores", "quota", "instruction sets", "code"],
)
def test_sums_are_made_over_one_machine_and_one_code(other, same, tree):
    assert same_origin(asdict(ORIGIN), json.loads(json.dumps(asdict(other)))) is same
    first = RawRuns("runs", ("task",), ORIGIN)
    first.add({"task": "a", "seed": 1, "score": 0.5})
    first.add({"task": "b", "score": 0.7})
    again = RawRuns("runs", ("task",), other)
    assert set(again.done) == ({("a",), ("b",)} if same else set())
    again.add({"task": "c"})
    lines = [json.loads(line) for line in again.path.read_text().splitlines()]
    assert [line["task"] for line in lines] == ["a", "b", "c"], "runs of another origin stay in the file"
    assert [line["provenance"]["seed"] for line in lines] == [1, 7, other.seed], "a run's own seed, else the process's"
    assert lines[2]["provenance"] == json.loads(json.dumps(asdict(other)))


def test_the_spread_of_values():
    assert spread([3.0, 1.0, 9.0, 5.0]) == {"median": 4.0, "low": 1.0, "high": 9.0, "runs": 4}


def test_a_copy_without_its_repository_is_told_its_commit(tree, monkeypatch, capsys):
    commit, code = results.commit(), results.code()
    shutil.rmtree(tree / ".git")
    (tree / "adapters" / "__pycache__").mkdir()
    (tree / "adapters" / "__pycache__" / "a.pyc").write_text("bytecode")
    monkeypatch.setenv("TOPGRAFT_SOURCE", f"{commit} {code}")
    results.code.cache_clear()
    origin = parsed()
    assert (origin.commit, origin.code) == (commit, code)
    (tree / "adapters" / "a.py").write_text("a = 2\n")
    results.code.cache_clear()
    with pytest.raises(SystemExit):
        parsed()
    assert "TOPGRAFT_SOURCE, which says" in capsys.readouterr().err
