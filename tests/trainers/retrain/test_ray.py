"""`retrain --all --executor ray` on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.tiny import as_json, write_config
from tests.trainers.retrain.place import ROOT


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
