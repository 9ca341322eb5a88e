"""Two processes that obey one parent line by line, so that both sides of a comparison take turns on one device.

A worker answers `{"cmd": "prepare", "shape", "precision"}` with its sides, and `{"cmd": "run", "side", "steps"}` with
the seconds and joules of so many steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.device.part import problem
from metering.energy import nvml

Side = Callable[[int], None]  # runs so many steps, and waits for them


def obey(prepare: Callable[[str, str], Mapping[str, Side]]) -> None:
    """Answers the parent's lines until they end; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    counter, sides = nvml(), {}
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any]
        try:
            if command["cmd"] == "prepare":
                sides.clear()
                started = time.perf_counter()
                sides.update(prepare(command["shape"], command["precision"]))
                for run in sides.values():
                    run(3)
                answer = {"sides": list(sides), "prepared_seconds": time.perf_counter() - started}
            else:
                before, started = counter.read() if counter else 0.0, time.perf_counter()
                sides[command["side"]](command["steps"])
                answer = {"seconds": time.perf_counter() - started}
                answer["joules"] = counter.read() - before if counter else None
        except Exception as error:  # noqa: BLE001  # one cell that fails loses no other
            sides.clear()
            answer = {"problem": problem(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
