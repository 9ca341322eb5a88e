"""Scalars of a run, as JSON lines and as TensorBoard events, and progress bars on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Scalars:
    """Appends to `metrics.jsonl` and to TensorBoard events below `tensorboard/`.

    When a run resumes from `step`, lines of later steps are dropped: they will be written again.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_scalars(self._path) if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line and one event per value, named `split/metric`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_scalars(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.jsonl` that hold a step and numbers; no file, no lines.

    Damaged lines are left out, such as the last one of a run that was killed while writing it.
    """
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append({name: value for name, value in values.items() if isinstance(value, (int, float))})
    return lines


def bar(total: int, what: str, unit: str, *, show: bool, initial: int = 0) -> Any:
    """Returns a progress bar with rate and time left, on stderr."""
    return tqdm(total=total, initial=initial, desc=what, unit=unit, file=sys.stderr, disable=not show, leave=False)
