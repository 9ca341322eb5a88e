"""The record of a machine: made once, made again where it is damaged, and what a wrong compiler stops."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import topgraft
from adapters import machine
from adapters.machine import ACCEPT, MachineRecord, machine_record, require_known_answers
from backbone.compiler_flags import jaxlib_version
from backbone.errors import InputError
from backbone.home import home, machines_folder
from metering.known_answers.program import Answer
from tests.grafts import make
from tests.home import linked
from tests.tiny import as_json

ROOT = Path(__file__).resolve().parents[2]
WRONG = "vmap of the squared sum of a product (jax#39103)"
# what jaxlib 0.10.2 does by itself: the very flag is named, so nothing is added
UNCURED = "--xla_backend_optimization_level=0 --xla_cpu_experimental_ynn_fusion_type=+reduce"
# command lines in one process: a line of [status, stdout, stderr] for each; a server is ended as soon as it listens
CHILD = """
import contextlib, io, json, logging, os, signal, sys, threading, time, topgraft
logs = io.StringIO()
logging.basicConfig(stream=logs, level=logging.INFO)

def end():
    while "serving on" not in logs.getvalue():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

for words in json.loads(sys.argv[1]):
    if words[0] == "accept":
        os.environ["TOPGRAFT_ACCEPT_ANSWERS"] = words[1] if words[1:] else record["verdict"]
        continue
    if words[0] == "serve":
        threading.Thread(target=end, daemon=True).start()
    logs.truncate(0)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = topgraft.main([*words, "--json"])
    said = json.loads(out.getvalue().splitlines()[-1])
    record = said if words[0] == "machine" else record
    print(json.dumps([status, said, logs.getvalue()]), flush=True)
"""


def called(lines, flags: str | None, **more: str) -> list[tuple[int, dict, str]]:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), **({} if flags is None else {"XLA_FLAGS": flags}), **more}
    command = [sys.executable, "-c", CHILD, json.dumps([list(map(str, words)) for words in lines])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture
def record() -> MachineRecord:
    """The record of this run, which all its processes share; another test may have added an audit."""
    return replace(machine_record(), audit=None)


@pytest.fixture
def own_home(tmp_path, monkeypatch, record) -> Path:
    """A home with a copy of the record."""
    (tmp_path / "home").mkdir()
    shutil.copytree(machines_folder(), tmp_path / "home" / "machines")
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    machine.keep_record(record)
    return tmp_path / "home"


def test_every_answer_is_right_with_the_flags_that_users_have(tmp_path):
    """Also with optimisations, which the other tests are spared."""
    ((status, told, _),) = called([("machine",)], None, TOPGRAFT_HOME=str(tmp_path / "home"))
    assert status == 0, [answer for answer in told["answers"] if not answer["right"]]
    assert told["verdict"].startswith("right-")
    assert len(told["answers"]) >= 30
    assert told["versions"]["jaxlib"] == jaxlib_version()
    (file,) = (tmp_path / "home" / "machines").glob("*.json")
    assert json.loads(file.read_text()) == told
    assert (file.parent.stat().st_mode & 0o777) == 0o700


@pytest.mark.skipif(jaxlib_version() != "0.10.2", reason="a compiler that is wrong is jaxlib 0.10.2")
def test_a_wrong_compiler_stops_what_computes_and_nothing_else(config, tiny, tiny_path, tmp_path):
    make(tmp_path / "grafts" / "t", tiny)
    place = ("--registry", f"sqlite:///{tmp_path}/r.db", "--store", tmp_path / "store")
    serve = ("serve", "--grafts", tmp_path / "grafts", "--backbone", tiny_path, "--port", "0", "--buckets", "8")
    train = ("train", config, "--set", "adapter.method=probe", "--set", "plan.stages=all")
    stopped = [
        (*train, "--workdir", "a"),
        ("plan", config),
        ("check", config, "--audit"),
        ("retrain", config, *place),
        ("evaluate", tmp_path / "grafts" / "t", "--file", tmp_path / "train.csv"),
        ("combine", tmp_path / "grafts" / "t", tmp_path / "grafts" / "t", "--out", "both"),
        ("export", tmp_path / "grafts" / "t", "--format", "jax", "--out", "exported"),
    ]
    lines = [
        ("machine",),
        *stopped,
        ("predict", tmp_path / "grafts" / "t", "--backbone", tiny_path, "--text", "ban bas"),
        (*serve, "--batch-sizes", "8", "--slots", "1"),
        ("accept", "wrong-of-another-day"),
        (*train, "--workdir", "b"),
        ("accept",),
        (*train, "--workdir", "c"),
    ]
    own = linked(tmp_path / "own")
    told = called(lines, UNCURED, TOPGRAFT_HOME=str(own))
    status, record, _ = told[0]
    assert status == 10
    assert [answer["program"] for answer in record["answers"] if not answer["right"]] == [WRONG]
    for words, (status, said, _) in zip(stopped, told[1:], strict=False):
        assert status == 2, words
        assert all(part in said.get("error", said.get("reason")) for part in (WRONG, "out of XLA_FLAGS", "8.37e+06"))
    predicted, served, other, accepted = told[1 + len(stopped) :]
    assert (predicted[0], served[0]) == (0, 0)
    assert len(predicted[1]["predictions"]) == 1
    for _, _, logs in (predicted, served):
        assert "answers go on, and may be wrong" in logs
    assert (other[0], accepted[0]) == (2, 0), "a verdict is accepted by its name"
    result = accepted[1]
    assert result["known_answers"] == record["verdict"]
    manifest = json.loads((tmp_path / "c" / "graft" / "manifest.json").read_text())
    assert manifest["training"]["versions"]["known answers"] == record["verdict"]
    assert record["verdict"] in (tmp_path / "c" / "report.html").read_text()
    variants = [json.loads(file.read_text()) for file in (own / "boundaries").glob("*/variant.json")]
    assert [variant["compiler"] for variant in variants] == [record["verdict"]], "states of its own"


def test_a_record_is_made_once(own_home, record):
    (file,) = (path for path in (own_home / "machines").glob("*.json") if path.stem == record.key)
    before = file.stat().st_mtime_ns
    assert machine_record() == record
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "altered"])
def test_a_damaged_record_is_made_again(content, own_home, record, caplog):
    file = own_home / "machines" / f"{record.key}.json"
    if content == "altered":
        values = json.loads(file.read_text())
        values["answers"][0]["right"] = False
        content = json.dumps(values)
    file.write_text(content)
    assert replace(machine_record(), seconds=record.seconds) == record
    assert "made again" in caplog.text
    assert json.loads(file.read_text())["verdict"] == record.verdict


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch, record, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "file"))
    assert replace(require_known_answers(), seconds=record.seconds) == record
    assert "no record of this machine" in caplog.text


def test_flags_and_programs_are_part_of_the_key(monkeypatch, tmp_path, record):
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    assert machine._key() == record.key, "a variable that changes no result"
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    other = machine._key()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert len({record.key, other, machine._key()}) == 3
    programs = shutil.copytree(machine.PROGRAMS, tmp_path / "programs")
    before = machine._key()
    monkeypatch.setattr(machine, "PROGRAMS", programs)
    assert machine._key() == before
    (programs / "loops.py").write_text("")
    assert machine._key() != before
    monkeypatch.setattr(machine, "PROGRAMS", machine.PROGRAMS.parent / "programs of nobody")
    keys = {machine._key()}
    monkeypatch.setattr(machine, "_versions", lambda: record.versions | {"jaxlib": "0.0.1"})
    keys.add(machine._key())
    monkeypatch.setattr(machine, "machine", lambda: replace(record.machine, instruction_sets=("avx",)))
    keys.add(machine._key())
    assert len(keys) == 3, "another jaxlib and another processor are judged anew"


def package_at(root: Path) -> Path:
    """Makes an empty package in the place of the programs."""
    package = root / "metering" / "known_answers"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        folder.joinpath("__init__.py").touch()
    return package


def test_a_compiler_that_crashes_is_wrong_and_judged_again(own_home, monkeypatch, tmp_path):
    """Such a process ends in the middle: here one that aborts after its first answer. Another runs out of memory."""
    package = package_at(tmp_path / "crash")
    first = {"program": "p", "right": True, "difference": 0.0, "allowed": 0.0, "problem": ""}
    lines = [json.dumps({"backend": "cpu"}), json.dumps(first)]
    full = json.dumps(first | {"right": False, "difference": None, "problem": "out of memory"})
    package.joinpath("__main__.py").write_text(f"import sys\nprint(*{[lines[0], full]!r}, sep='\\n')\nsys.exit(1)\n")
    with monkeypatch.context() as broken:
        broken.setattr(machine, "PROGRAMS", package)
        assert machine_record().wrong[0].problem == "out of memory"
        assert not (own_home / "machines" / f"{machine._key()}.json").exists()
    package.joinpath("__main__.py").write_text(f"import os\nprint(*{lines!r}, sep='\\n', flush=True)\nos.abort()\n")
    monkeypatch.setattr(machine, "PROGRAMS", package)
    assert machine_record().wrong[0].program == "the process that compiles"
    with pytest.raises(InputError, match="ended with status -6"):
        require_known_answers()
    assert not (own_home / "machines" / f"{machine._key()}.json").exists()


def test_jax_that_does_not_start_is_an_error_of_the_system(own_home, monkeypatch, tmp_path, capsys, config):
    package = package_at(tmp_path / "broken")
    package.joinpath("__main__.py").write_text("raise ImportError('no jax here')")
    monkeypatch.setattr(machine, "PROGRAMS", package)
    assert topgraft.main(["train", str(config), "--workdir", "run", "--quiet"]) == 1
    assert "jax does not start (status 1): ImportError: no jax here" in capsys.readouterr().err


def test_the_verb_prints_everything(record, capsys):
    assert topgraft.main(["machine", "--json"]) == 0
    told = as_json(capsys.readouterr().out)
    assert {"machine", "versions", "flags", "answers", "joules", "verdict", "backend"} <= told.keys()
    assert topgraft.main(["machine"]) == 0
    text = capsys.readouterr().out
    for part in (record.machine.processor, f"jaxlib {jaxlib_version()}", record.verdict, "joules, model", WRONG):
        assert part in text
    assert text.count("  right  ") == len(record.answers)


def test_the_joules_of_a_machine_name_their_sources(record):
    assert [source.name for source in record.joules][-1] == "model"
    assert {source.state for source in record.joules[:-1]} <= {"absent", "rises under load", "stands still"}


def test_a_wrong_record_says_so(record):
    assert (record.exit_status, record.cache_key) == (0, "")
    wrong = replace(record, verdict="wrong-0", answers=(*record.answers, Answer("b", False, 2.0, 1.0)))
    assert (wrong.exit_status, wrong.cache_key) == (10, "wrong-0")
    assert "WRONG  b: 2.0e+00 of 1.0e+00" in wrong.table()
    assert f"wrong-0: {len(record.answers)} of {len(record.answers) + 1} right" in wrong.table()
    answers = (Answer("a", True, 0.0, 0.0), Answer("b", False, None, 0.0, "nan instead of 1.0"))
    verdict = machine._verdict("key", answers)
    assert verdict.startswith("wrong-")
    assert verdict != machine._verdict("key", (answers[1],)[:0])
    assert home().is_dir()
    assert ACCEPT not in os.environ
