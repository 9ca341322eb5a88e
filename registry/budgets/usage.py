"""What servers spent on answers, as they note it: a file of JSON lines, one for each stretch of time. Imports no jax.

topgraft serve ... --usage usage.jsonl        # a line every ten minutes, and one at the end
topgraft audit --usage usage.jsonl ...        # CPU seconds and joules of 1,000 answers, by owner and by limit
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError
from backbone.records import decode, encode
from backbone.texts import load_json
from metering.energy import Quality

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """The answers of one task, and what they took."""

    rows: int  # rows answered
    cpu_seconds: float
    joules: float  # energy of the quality of its line; 0 where that is unavailable

    def __add__(self, other: Served) -> Served:
        return Served(self.rows + other.rows, self.cpu_seconds + other.cpu_seconds, self.joules + other.joules)


@dataclass(frozen=True)
class UsageLine:
    """What one server spent in one stretch of time."""

    start: float  # Unix time, seconds
    end: float
    quality: Quality  # quality of the joules
    tasks: dict[str, Served]


def append_line(path: Path, line: UsageLine) -> None:
    """Appends a line to the file, which it makes if there is none."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(encode(line)) + "\n")


def read_usage(files: Iterable[str]) -> tuple[UsageLine, ...]:
    """Reads files of servers; raises InputError with file and line for anything else.

    A last line without its end is left out with a warning: its server was killed while it wrote.
    """
    return tuple(line for name in files for line in _lines(Path(name)))


def _lines(path: Path) -> Iterator[UsageLine]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--usage: {path}: unreadable: {error}; name a file of `topgraft serve --usage`") from error
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            log.warning("%s:%d: left out: it has no end", path, number)
            return
        where = f"{path}:{number}"
        try:
            yield decode(UsageLine, load_json(line), where)
        except ValueError as error:  # an InputError is a ValueError
            raise InputError(f"--usage: {where}: no line of `topgraft serve --usage`: {error}") from error


def summed(lines: Iterable[UsageLine], since: float, until: float) -> Mapping[str, Mapping[Quality, Served]]:
    """Returns what each task took in lines that end in a period, by the quality of their joules."""
    tasks: dict[str, dict[Quality, Served]] = {}
    for line in lines:
        if since <= line.end < until:
            for task, served in line.tasks.items():
                of_task = tasks.setdefault(task, {})
                of_task[line.quality] = of_task[line.quality] + served if line.quality in of_task else served
    return tasks


@dataclass(frozen=True)
class PerThousand:
    """What 1,000 answers took in a period."""

    answers: int
    cpu_seconds: float | None  # None: there were no answers
    joules: dict[str, float]  # energy by quality: qualities are never added


def per_thousand(parts: Iterable[Mapping[Quality, Served]]) -> PerThousand:
    """Returns what 1,000 answers of some tasks took; joules by quality, over the answers of that quality."""
    by_quality: dict[Quality, Served] = {}
    for part in parts:
        for quality, served in part.items():
            by_quality[quality] = by_quality[quality] + served if quality in by_quality else served
    rows = sum(served.rows for served in by_quality.values())
    cpu = sum(served.cpu_seconds for served in by_quality.values())
    joules: dict[str, float] = {
        quality: round(1e3 * served.joules / served.rows, 4)
        for quality, served in by_quality.items()
        if served.rows and quality != "unavailable"
    }
    return PerThousand(rows, round(1e3 * cpu / rows, 4) if rows else None, joules)
