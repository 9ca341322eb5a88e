"""A work folder has one owner at a time, one config for good, and says which file a full disk refused."""

from __future__ import annotations

import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import topgraft
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import decode
from tests.tiny import write_config
from trainers.runs.result import TrainResult
from trainers.runs.workdir import CONFIG, LOCK, RESULT, claimed, stored_result
from trainers.scoring.report import write_report


def test_of_many_that_claim_a_folder_one_gets_it(tmp_path):
    """Each opens the lock for itself, as processes do."""
    together, over = threading.Barrier(8), threading.Event()

    def claim(number: int) -> str:
        together.wait()
        try:
            with claimed(tmp_path / "run", {"seed": number}, resume=False):
                over.wait(60)
                return str(number)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(claim, number) for number in range(8)]
        while sum(one.done() for one in found) < 7:
            pass
        over.set()
        answers = [one.result() for one in found]
    winners = [answer for answer in answers if answer.isdigit()]
    assert len(winners) == 1
    assert sum("another process is at work there" in answer for answer in answers) == 7
    assert json.loads((tmp_path / "run" / CONFIG).read_text()) == {"seed": int(winners[0])}


def test_a_folder_at_work_is_not_resumed_either_and_is_free_afterwards(tmp_path, tiny_path, capsys):
    config = write_config(tmp_path / "config.py", tiny_path, tmp_path, adapter="Probe()")
    words = ["train", str(config), "--workdir", "run", "--quiet"]
    with claimed(Path("run"), {}, resume=False):
        for more in ([], ["--resume"]):
            assert topgraft.main([*words, *more]) == 2
            assert "another process is at work there; wait for its end" in capsys.readouterr().err
    with pytest.raises(InputError, match="bad rows"), claimed(Path("other"), {}, resume=False):
        raise InputError("bad rows")
    assert [path.name for path in Path("other").iterdir()] == [LOCK], "given back"
    with claimed(Path("other"), {"a": 1}, resume=False) as stored:
        assert stored is None
        (Path("other") / RESULT).write_text('{"steps": 3}')
    with claimed(Path("other"), {"a": 2}, resume=True, free=("a",)) as stored:
        assert stored == {"steps": 3}


def test_a_write_that_fails_names_its_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*result\.json"):
        write_durable(tmp_path / "result.json", b"{}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"stages": [{}]}', '{"stages": 3}', "\x00\xff"])
def test_a_damaged_plan_breaks_no_report(content, tmp_path, caplog):
    joules = {"value": None, "quality": "unavailable", "source": "none"}
    unknown = dict.fromkeys(("peak_bytes", "bytes_moved", "watts"))
    cost = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "flops": 1.0, "joules": joules, **unknown}
    stage = {"until": 2, "boundary": 1, "cached": False, "steps": 2, **cost}
    sizes = {"steps": 2, "trainable": 1, "seconds": 1.0, "cpu_seconds": 1.0, "costs": {}, "stages": [stage]}
    names = {"graft": "graft", "content_id": "sha256:0", "report": "", "climb": [], "resumed": False}
    result = decode(TrainResult, {**sizes, **names, "metrics": {"dev": {"accuracy": 0.5}}})
    (tmp_path / "plan.json").write_bytes(content.encode("latin-1"))
    page = write_report(tmp_path, result, {}, (), {"name": "tiny", "blocks": 3}).read_text()
    for told in (page, caplog.text):
        assert "plan.json: damaged" in told
        assert "writes it anew" in told
    assert "<h2>Environment</h2>" in page, "the rest is there"


def test_a_folder_with_a_plan_is_given_back_after_bad_input(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="too few rows"), claimed(folder, {"a": 1}, False):
        raise InputError("too few rows")
    with claimed(folder, {"a": 2}, False) as stored:
        assert stored is None


def test_a_result_of_a_former_version_is_read_by_its_former_names(tmp_path):
    """The first version called the steps of a climb `rungs`; every other field had its present name."""
    cost = {"wall_seconds": 1.0, "cpu_seconds": 2.0, "peak_bytes": None, "flops": None, "bytes_moved": None}
    cost |= {"watts": None, "joules": {"quality": "unavailable", "value": None, "source": "no meter"}}
    values = {"graft": "graft", "content_id": "sha256:0", "metrics": {"dev": {"accuracy": 0.9}}, "steps": 3}
    values |= {"trainable": 5, "seconds": 1.0, "cpu_seconds": 2.0, "costs": {"train": cost}, "resumed": False}
    values |= {"stages": [], "report": "report.html"}
    rungs = [{"name": "probe", "score": 0.9, "kept": True, "cost": cost}]
    result = stored_result(TrainResult, tmp_path, values | {"rungs": rungs})
    assert [(step.name, step.score, step.kept) for step in result.climb] == [("probe", 0.9, True)]
    with pytest.raises(InputError, match="damaged"):
        stored_result(TrainResult, tmp_path, values | {"steps_of_a_climb": rungs})
