"""Processes that retrain several tasks: what they share, and what ends none of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import topgraft
from backbone.records import decode, encode
from tests.tiny import as_json
from trainers.retrain.configs import read_configs
from trainers.retrain.fleet import Outcomes
from trainers.retrain.outcome import Job

ROOT = Path(__file__).resolve().parents[3]
NOTES = """
import os
from pathlib import Path
with (Path(__file__).parent / "{name}.pids").open("a") as file:
    print(os.getpid(), file=file)
print("a line that is no outcome")
"""
DIES = """
if (Path(__file__).parent / "{name}.pids").read_text().count("\\n") == 2:  # once to be read, once to be retrained
    os.kill(os.getpid(), 9)
"""
VARIANT = """
from dataclasses import dataclass
from trainers.freezing.schedule import Schedule, Span

@dataclass(frozen=True)
class Mine(Schedule, tag="mine"):
    first: int = {first}

    @classmethod
    def example(cls):
        return cls()

    def spans(self, shape):
        return (Span(self.first, shape.total),)
"""


def write(place, name: str, *, before: str = "") -> Path:
    """A config of the task `name` that notes each process that runs it."""
    text = place.config.read_text().replace("'tiny'", repr(name))
    head, rest = text.split("\n", 1) if text.startswith('"""') else ("", text)
    file = place.folder / f"{name}.py"
    file.write_text(f"{head}\n{NOTES.format(name=name)}{before.format(name=name)}\n{rest}")
    return file


def together(place, capsys, *configs: Path, workers: int = 1) -> Outcomes:
    place_of = ("--registry", place.url, "--store", str(place.store))
    words = ["retrain", *map(str, configs), *place.overrides(), *place_of, "--all", "--workers", str(workers), "--json"]
    topgraft.main(words)
    return decode(Outcomes, as_json(capsys.readouterr().out))


def pids(place, name: str) -> list[int]:
    return [int(line) for line in (place.folder / f"{name}.pids").read_text().split()]


def test_a_task_that_is_killed_ends_no_other_and_the_rest_share_processes(place, capsys):
    configs = [write(place, "a"), write(place, "b"), write(place, "c", before=DIES), write(place, "d")]
    outcomes = together(place, capsys, *configs).tasks
    assert [(o.task, o.exit, o.promoted) for o in outcomes] == [
        ("a", 0, True), ("b", 0, True), ("c", 1, False), ("d", 0, True),
    ]  # fmt: skip
    assert outcomes[2].reason == "the process ended with status -9"
    a, b, c, d = (pids(place, name)[1] for name in "abcd")
    assert a == b == c != d
    again = together(place, capsys, *configs[:2], configs[3])
    assert [o.action for o in again.tasks] == ["nothing"] * 3, "what a shared process trained is what one alone trains"


def test_each_of_two_workers_has_its_process(place, capsys):
    names = "abcd"
    outcomes = together(place, capsys, *(write(place, name) for name in names), workers=2)
    assert [o.exit for o in outcomes.tasks] == [0] * 4
    assert len({pids(place, name)[1] for name in names}) == 2


def test_a_shared_process_trains_the_same_graft_as_one_of_its_own(place, capsys):
    together(place, capsys, write(place, "a"), write(place, "b"))
    alone = write(place, "c")
    together(place, capsys, alone)
    leaves = [place.registry.version(name, 1).content_id for name in "abc"]
    files = [place.store / i.removeprefix("sha256:") / "graft.safetensors" for i in leaves]
    assert len({file.read_bytes() for file in files}) == 1


def test_scripts_with_code_of_their_own_share_no_process(place, capsys):
    """Two scripts may give one tag, or one module, to different things."""
    (place.folder / "helper.py").write_text("NAME = 'x'\n")
    configs = {
        "plain": write(place, "plain"),
        "first": write(place, "first", before=VARIANT.replace("{first}", "1")),
        "second": write(place, "second", before=VARIANT.replace("{first}", "2")),
        "imports": write(place, "imports", before="import helper\n"),
    }
    jobs = [Job(config=str(file), overrides=tuple(place.overrides()[1::2])) for file in configs.values()]
    assert [reading.alone for reading in read_configs(jobs)] == [False, True, True, True]
    outcomes = together(place, capsys, *configs.values())
    assert [(o.task, o.exit) for o in outcomes.tasks] == [(name, 0) for name in configs]
    assert len({pids(place, name)[-1] for name in configs}) == 4


def test_a_process_answers_each_line_with_a_line(place):
    job = place.job()
    lines = "".join(f"{json.dumps(encode(job))}\n" for _ in range(2))
    done = subprocess.run(
        [sys.executable, "-m", "trainers.retrain.workers"],
        input=lines,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["action"], first["promoted"], second["action"]) == ("scratch", True, "nothing")
