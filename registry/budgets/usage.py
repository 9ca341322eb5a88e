"""What servers spent on answers, as they note it: a file of JSON lines, one for each stretch of time. Imports no jax.

topgraft serve ... --usage usage.jsonl        # a line every ten minutes, and one at the end
topgraft audit --usage usage.jsonl ...        # CPU seconds and joules of 1,000 answers, by owner and by limit
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError, counted, shown
from backbone.records import decode, encode
from backbone.texts import lines, parse_json, read_text
from metering.energy import Quality

log = logging.getLogger(__name__)

BEGIN = '{"start": '  # begin of every line; inside a task's name its quotes would be escaped
TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"?')  # texts in JSON, also one without its end
MOST = 1e15  # no server spends more, and sums of such figures are finite


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
    """Appends a line to the file, which it makes if there is none.

    A last line without its end, as an interrupted write leaves it, stays a line of its own.
    """
    start = "\n" if _is_unfinished(path) else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{start}{json.dumps(encode(line))}\n")


def _is_unfinished(path: Path) -> bool:
    """Returns whether the last line of a file has no end; a pipe has none to ask for."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read_usage(files: Iterable[str], now: float | None = None) -> tuple[UsageLine, ...]:
    """Reads files of servers; raises InputError with file and line for anything else.

    Half a line is left out with a warning: its server was killed while it wrote, or its disk was full. So is a line
    that stands in what was read before, as it does in a copy of a file. Lines that end after `now`, seconds since 1970,
    are kept with a warning.
    """
    return tuple(_distinct(files, time.time() if now is None else now))


def _distinct(files: Iterable[str], now: float) -> Iterator[UsageLine]:
    """Yields each line once, and warns once for each file of copies and of lines that end after `now`."""
    seen: set[str] = set()
    for name in files:
        copies, late = list[int](), list[tuple[int, UsageLine]]()
        for number, line in _lines(Path(name)):
            key = json.dumps(encode(line), sort_keys=True)
            if key in seen:
                copies.append(number)
                continue
            seen.add(key)
            if line.end > now:
                late.append((number, line))
            yield line
        if copies:
            log.warning(
                "--usage: %s:%d: read before, so it counts once; the file has %s",
                name,
                copies[0],
                counted(len(copies), "such line"),
            )
        if late:
            ahead = max(line.end for _, line in late) - now
            text = "--usage: %s:%d: ends after now; %s by up to %.0f s count as of now; set that server's clock"
            log.warning(text, name, late[0][0], counted(len(late), "line"), ahead)


def _lines(path: Path) -> Iterator[tuple[int, UsageLine]]:
    """Yields the lines of a file with their numbers; halves are left out with a warning."""
    try:
        text = read_text(path)
    except InputError as error:
        raise InputError(f"--usage: {error}; name a file of `topgraft serve --usage`") from error
    for number, line in lines(text):
        place = max(0, line.rfind(BEGIN))  # a former version wrote the next line after half of one
        place = place if _is_half(line[:place]) else 0
        if place or _is_half(line):
            log.warning("--usage: %s:%d: half a line is left out: its writing was interrupted", path, number)
        if line.strip() and not _is_half(line[place:]):
            try:
                value = decode(UsageLine, parse_json(line[place:], "its text"))
                _require_possible(value)
            except ValueError as error:  # an InputError is a ValueError
                where = f"--usage: {path}:{number}: no line of `topgraft serve --usage`"
                raise InputError(f"{where}: {error}; mend the line, or remove it") from error
            yield number, value


def _is_half(line: str) -> bool:
    """Returns whether a line begins as one of ours and lacks its end."""
    begins = bool(line) and (line.startswith(BEGIN) or BEGIN.startswith(line))
    braces = TEXTS.sub("", line)
    return begins and braces.count("{") > braces.count("}")


def _require_possible(line: UsageLine) -> None:
    """Raises InputError for figures that no server can have spent."""
    if not 0 <= line.start <= line.end <= MOST:
        raise InputError(f"start, end: expected 0 <= start <= end, got {shown(line.start)} and {shown(line.end)}")
    for task, served in line.tasks.items():
        for name, value in vars(served).items():
            if not 0 <= value <= MOST:
                raise InputError(f"tasks.{task}.{name}: must lie in [0, {MOST:g}], got {shown(value)}")


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
