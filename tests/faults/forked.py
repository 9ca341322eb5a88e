"""A function in a forked child: what it returned, or how the child died, and what it printed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER, SAID = "answer.json", "said.txt"  # files beside the root, which no fault concerns


@dataclass(frozen=True)
class Ended:
    """The end of a child."""

    killed: bool  # it died of SIGKILL, as of a fault
    late: bool  # it did not end in time, and was killed for that
    value: Any  # JSON value that the function returned; None without one
    said: str  # what it wrote to stdout and stderr

    @property
    def raised(self) -> str:
        """Returns the last line of the traceback of a function that raised; empty for one that returned."""
        return self.said.strip().splitlines()[-1] if self.value is None and "Traceback (most" in self.said else ""


def forked(folder: Path, function: Callable[[], Any], seconds: float = 120.0) -> Ended:
    """Calls a function in a child, and waits for its end."""
    answer, said = folder / ANSWER, folder / SAID
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(function, answer, said)
    deadline, pause = time.monotonic() + seconds, 0.001
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(False, True, None, said.read_text(errors="replace"))
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    value = json.loads(answer.read_text()) if answer.exists() else None
    killed = os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL
    return Ended(killed, False, value, said.read_text(errors="replace"))


def _child(function: Callable[[], Any], answer: Path, said: Path) -> None:
    """Runs the function, and ends the process without its usual farewells."""
    status = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        answer.write_text(json.dumps(function()))
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
