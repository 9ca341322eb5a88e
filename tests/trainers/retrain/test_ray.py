"""`retrain --all --executor ray` on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from tests.tiny import as_json, write_config
from tests.trainers.retrain.place import ROOT

WITHOUT_TOKENS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until_it_answers(cluster: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert cluster.poll() is None, cluster.stdout.read()
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def test_a_ray_worker_killed_in_mid_task_ends_once_and_promotes_once(place, tiny_path):
    """Ray starts the task again; the second worker waits for the lease of the first, and goes on."""
    other = place.folder / "other"
    other.mkdir()
    second = write_config(other / "config.py", tiny_path, other, adapter="Probe()")
    second.write_text(second.read_text().replace("name='tiny'", "name='second'"))
    words = ["retrain", str(place.config), str(second), *place.overrides(), "--all", "--executor", "ray"]
    words += [
        "--workers",
        "1",
        "--lease",
        "6",
        "--registry",
        place.url,
        "--store",
        str(place.store),
        "--json",
        "--quiet",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "topgraft", *words]
    registry, deadline = place.registry, time.monotonic() + 300
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    while not (runs := registry.runs("tiny")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int(runs[0].owner.split(":")[1]), signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    result = as_json(out)
    assert (process.returncode, result["exit"]) == (0, 0)
    assert [task["task"] for task in result["tasks"]] == ["tiny", "second"]
    for task in ("tiny", "second"):
        assert [(p.from_version, p.to_version) for p in registry.promotions(task)] == [(None, 1)]
        assert registry.live(task) is not None
    assert [run.finished_at is None for run in registry.runs("tiny")] == [False, True], (
        "the second run, then the dead one"
    )


def test_a_cluster_that_runs_is_used(place, tiny_path, tmp_path):
    """Its workers have another folder and another environment; paths of the command are those of its own folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    away = os.environ | {"TOPGRAFT_HOME": str(elsewhere / "home"), "PYTHONPATH": "", **WITHOUT_TOKENS}
    port, short = free_port(), tempfile.mkdtemp(prefix="ray")  # paths of sockets have at most 107 bytes
    head = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=1", "--block",
        "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={short}",
    ]  # fmt: skip
    cluster = subprocess.Popen(head, cwd=elsewhere, env=away, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        until_it_answers(cluster, port)
        words = ["retrain", place.config.name, *place.overrides(), "--all", "--executor", "ray", "--workers", "2"]
        words += ["--registry", "sqlite:///registry.db", "--store", "store", "--json", "--quiet"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": f"127.0.0.1:{port}", **WITHOUT_TOKENS}
        done = subprocess.run(
            [sys.executable, "-m", "topgraft", *words],
            cwd=place.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        result = as_json(done.stdout)
        assert (done.returncode, result["exit"]) == (0, 0), (done.stdout, done.stderr)
        assert [task["promoted"] for task in result["tasks"]] == [True]
        assert place.live() == 1
        assert list(elsewhere.iterdir()) == []
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)  # SIGTERM drains for half a minute
        cluster.wait(60)
        shutil.rmtree(short, ignore_errors=True)
