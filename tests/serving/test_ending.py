"""The end of a server by a signal: from the first instant, as process 1, and while artefacts hang."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.server import ending
from serving.server.door import Door
from serving.server.json_response import JSON

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds: a busy machine starts slowly
CATCHES_SIGTERM = 1 << (signal.SIGTERM - 1)


def served(*options: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "topgraft", "serve", "--port", "0", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def caught(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM (Linux)."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) & CATCHES_SIGTERM)
    return False


def child_of(pid: int) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.002)
    raise AssertionError("no child")


def until_caught(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while not caught(pid):
        assert time.monotonic() < end
        time.sleep(0.002)


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def can_isolate() -> bool:
    """Whether this user may make a process the first of a name space."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_imported_ends_it_with_status_0(number, tmp_path):
    process = served("--backbone", tmp_path, "--grafts", tmp_path)
    until_caught(process.pid)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "")


@linux
@pytest.mark.skipif(not can_isolate(), reason="needs the right to make a process name space")
def test_process_1_ends_by_a_signal(tmp_path):
    """The kernel drops a signal for process 1 that nobody handles: it would be killed after the time of grace."""
    process = served("--backbone", tmp_path, "--grafts", tmp_path, before=("unshare", "--pid", "--fork"))
    first = child_of(process.pid)
    until_caught(first)
    os.kill(first, signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "")


@linux
def test_a_hung_backbone_does_not_stop_a_signal(tmp_path):
    """The read of its settings never ends: here a pipe in the place of the file."""
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    os.mkfifo(backbone / "backbone.json")
    grafts = tmp_path / "grafts"
    (grafts / "a").mkdir(parents=True)
    (grafts / "a" / "manifest.json").write_text("{}")
    process = served("--backbone", backbone, "--grafts", grafts)
    until_caught(process.pid)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


def test_a_signal_that_a_library_swallows_ends_the_process_all_the_same():
    """An exception in a callback of C is printed and forgotten, so that the handler's would be."""
    program = (
        "import gc, signal, time\n"
        "from serving.server import ending\n"
        "ending.SWALLOWED = 0.2\n"
        "ending.catch_signals_of_process()\n"
        "gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGTERM))\n"
        "gc.collect()\n"
        "gc.callbacks.clear()\n"
        "print('swallowed', flush=True)\n"
        "time.sleep(100)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "swallowed\n"), done.stderr
    assert "Exception ignored" in done.stderr


def test_a_signal_drains_once_the_server_listens():
    drained = []
    former = {number: signal.getsignal(number) for number in ending.SIGNALS}
    with ending.caught():
        with pytest.raises(ending.Ended) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 0
        with ending.draining(lambda: drained.append("at once")):
            assert drained == ["at once"], "one that came before, and was swallowed, is not lost"
            signal.raise_signal(signal.SIGTERM)
            assert drained == ["at once"] * 2
        signal.raise_signal(signal.SIGINT)  # drained already
    assert {number: signal.getsignal(number) for number in ending.SIGNALS} == former


def test_a_door_answers_for_a_server_that_has_not_begun():
    from starlette.testclient import TestClient

    door = Door(seconds=0.2)
    with TestClient(door) as client:
        door.reason = "no live version can be read: the store is not mounted"
        assert client.get("/v2/health/live").json() == {"live": True}
        response = client.get("/v2/health/ready")
        assert (response.status_code, response.json()["reason"]) == (503, door.reason)
        response = client.post("/predict", json={})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert door.reason in response.json()["error"]
        assert door.retry.is_set(), "it makes the server look again"

        async def app(scope, receive, send):
            await JSON({"begun": True})(scope, receive, send)

        door.open(app)
        assert client.post("/predict", json={}).json() == {"begun": True}
