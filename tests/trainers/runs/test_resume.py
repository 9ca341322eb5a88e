"""A run that was killed, or met a full disk, goes on to the same graft; another run is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from tests.command import ROOT, call, killed_run, run, same
from tests.tiny import as_json, rows, write_csv
from trainers.runs.interruption import Interruption


def test_killed_at_several_instants_and_resumed_is_bit_identical(config, tmp_path, capsys):
    """One run killed again and again, while training and while a checkpoint is being written."""
    settings = ("--set", "epochs=12", "--set", "checkpoint_seconds=0.2")
    call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    workdir = tmp_path / "killed"
    checkpoints = workdir / "checkpoints"

    def names(temporary: bool) -> set[str]:
        found = {p.name for p in checkpoints.glob("*")} if checkpoints.is_dir() else set()
        return {n for n in found if n.isdigit() != temporary}

    killed_run(config, workdir, lambda: (workdir / "config.json").exists(), *settings)
    # in the middle of a later checkpoint, or right after it
    killed_run(config, workdir, lambda: (names(False) and names(True)) or len(names(False)) > 1, *settings, "--resume")
    done = run("train", config, "--workdir", workdir, *settings, "--quiet", "--resume", "--json")
    assert as_json(done.stdout)["resumed"]
    same(tmp_path / "whole", workdir)
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    reference = [json.loads(x)["step"] for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert steps == reference, "nothing is logged twice"


def test_a_signal_saves_at_the_next_step_and_ends_with_a_status_of_its_own(config, tmp_path, monkeypatch, capsys):
    call("train", config, "--workdir", "whole", "--quiet", capsys=capsys)
    look = Interruption.look

    def signalled(self, done: int) -> bool:
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return look(self, done)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "look", signalled)
        status, _, err = call("train", config, "--workdir", "run", "--quiet", capsys=capsys)
    assert status == 143
    assert "stopped by a signal after 5 of" in err
    assert "--resume goes on" in err
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]
    assert not (tmp_path / "run" / "graft").exists()
    status, out, err = call("train", config, "--workdir", "run", "--quiet", "--resume", "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["resumed"]
    same(tmp_path / "whole", tmp_path / "run")


def test_resuming_another_run_is_refused_and_a_finished_one_returns(config, tmp_path, capsys, monkeypatch):
    status, out, _ = call("train", config, "--workdir", "run", "--set", "epochs=1", "--json", capsys=capsys)
    assert status == 0
    status, again, _ = call(
        "train", config, "--workdir", "run", "--set", "epochs=1", "--resume", "--json", capsys=capsys
    )
    assert as_json(again) == as_json(out)
    status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    assert status == 2
    assert "--resume" in err
    status, _, err = call("train", config, "--workdir", "run", "--set", "seed=7", "--resume", capsys=capsys)
    assert status == 2
    assert "seed (0 then, 7 now)" in err
    for content in ("{", "[]", "{}"):
        (tmp_path / "run" / "result.json").write_text(content)
        status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=1", "--resume", capsys=capsys)
        assert (status, "result.json: damaged" in err) == (2, True)
    status, _, err = call("train", config, "--workdir", tmp_path / "test.csv", capsys=capsys)
    assert (status, "test.csv: cannot be made" in err) == (2, True)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "test.csv"))
    status, _, err = call("train", config, "--workdir", "other", capsys=capsys)
    assert (status, "test.csv" in err.splitlines()[-1]) == (1, True), "no traceback where the system refuses"


def test_resuming_on_other_data_is_refused(config, tmp_path, capsys):
    checkpoints = tmp_path / "run" / "checkpoints"
    killed_run(
        config, tmp_path / "run", lambda: any(p.name.isdigit() for p in checkpoints.glob("*")), "--set", "epochs=50"
    )
    write_csv(tmp_path / "train.csv", rows(200, seed=5))
    status, _, err = call("train", config, "--workdir", "run", "--set", "epochs=50", "--resume", capsys=capsys)
    assert status == 2
    assert "the run's data has changed" in err


def test_a_disk_that_fills_up_leaves_a_run_that_resumes(config, tmp_path, capsys):
    """A real limit on file size stops the checkpoint; without the limit the run goes on to the same graft."""
    call("train", config, "--workdir", "whole", "--quiet", capsys=capsys)
    command = f"ulimit -f 8; exec {sys.executable} -m topgraft train {config} --workdir {tmp_path / 'run'} --quiet"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_COMPILATION_CACHE": "0"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert not (tmp_path / "run" / "graft").exists()
    status, _, err = call("train", config, "--workdir", "run", "--quiet", "--resume", capsys=capsys)
    assert status == 0, err
    same(tmp_path / "whole", tmp_path / "run")
