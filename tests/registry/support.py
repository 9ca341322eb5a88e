"""What the suites of the registry share: a promotion's reason, clocks that jump, actors, bytes that flip."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from registry.database import Registry
from registry.tables import leases
from tests.registry.actors import ROOT

TOLD = {"actor": "tests", "reason": "because", "verdict": "PASS"}


def shift_clock(registry: Registry, seconds: float) -> None:
    """The clock of the database jumps: seen from a lease, its end lies that much nearer."""
    with registry.database.engine.begin() as connection:
        connection.execute(leases.update().values(expires_at=leases.c.expires_at - seconds))


def wait_for(condition, seconds: float = 60.0) -> bool:
    """Whether a condition comes true in time."""
    ended = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return True
        ended.wait(0.02)
    return False


def actor(*arguments: object) -> subprocess.Popen[str]:
    """A process of tests/registry/actors.py."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.registry.actors", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def answer(*arguments: object) -> str:
    """What an actor that ended well printed."""
    out, err = (process := actor(*arguments)).communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def flip(file: Path) -> bytes:
    """Changes one byte in the middle; returns what was there."""
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    return whole
