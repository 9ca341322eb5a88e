"""Scalars of a run, as JSON lines and as TensorBoard events, and its progress: a bar on a terminal, else log lines."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backbone.texts import load_json

log = logging.getLogger(__name__)

LINE_SECONDS = 30.0  # seconds between two lines of progress in a log


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


class NoScalars(Scalars):
    """Scalars of a process that leaves writing to another one."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read_scalars(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.jsonl` that hold a step and numbers; no file, no lines.

    Damaged lines are left out, such as the last one of a run that was killed while writing it.
    """
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            values = load_json(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append({name: value for name, value in values.items() if isinstance(value, (int, float))})
    return lines


class Lines:
    """Progress as a line in the log every `LINE_SECONDS`, with what `bar` offers."""

    def __init__(self, total: int, what: str, unit: str, initial: int):
        self._total, self._what, self._unit, self._done, self._first = total, what, unit, initial, initial
        self._start = self._last = time.monotonic()
        self._beside = ""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Adds to what is done; logs if the last line is old enough."""
        self._done += count
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        rate = (self._done - self._first) / (now - self._start)
        left = f", about {(self._total - self._done) / rate:.0f} s left" if rate and self._total > self._done else ""
        counts = f"{self._done:,} of {self._total:,} ({self._unit}, {rate:.3g} a second{left})"
        log.info("%s: %s%s", self._what, counts, self._beside)

    def set_postfix(self, *, refresh: bool = True, **values: str) -> None:
        """Sets what stands behind the counts."""
        self._beside = "".join(f", {name} {value}" for name, value in values.items())


def bar(total: int, what: str, unit: str, *, show: bool, initial: int = 0) -> Any:
    """Returns a progress bar on stderr with rate and time left; where that is no terminal, lines in the log."""
    if show and not sys.stderr.isatty():
        return Lines(total, what, unit, initial)
    return tqdm(total=total, initial=initial, desc=what, unit=unit, file=sys.stderr, disable=not show, leave=False)


@contextlib.contextmanager
def silent_tfds(*, show: bool = False) -> Iterator[None]:
    """Drops what TFDS prints while it writes files; its bars stay with `show`, where stderr is a terminal."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(show and sys.stderr.isatty())
    with contextlib.redirect_stdout(io.StringIO()):
        yield
