"""The console command, in this process and in one of its own, and the graft that a run leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import topgraft

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, check=True, **options) -> subprocess.CompletedProcess:
    """The console command in a process of its own."""
    command = [sys.executable, "-m", "topgraft", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def call(*arguments, capsys) -> tuple[int, str, str]:
    """The console command in this process."""
    status = topgraft.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "graft" / "graft.safetensors")


def same(left: Path, right: Path) -> None:
    a, b = tensors(left), tensors(right)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def killed_run(config: Path, workdir: Path, until, *settings) -> None:
    """Starts a run and kills it -9 as soon as `until()` is true."""
    arguments = ["train", str(config), "--workdir", str(workdir), "--quiet", *settings]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "topgraft", *arguments], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not until():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
