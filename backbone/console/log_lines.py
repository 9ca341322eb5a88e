"""The lines of a log: one record is one line, whatever the text in it.

Texts of requests, file names and messages of other programs come from outside. A line end in one would begin a line of
its own, and could so forge a record. Control characters could rewrite what a terminal shows. Both are escaped. A
traceback keeps its lines, each behind a bar.
"""

from __future__ import annotations

import logging
import re
import threading

FORMAT = "%(asctime)s %(levelname)s %(message)s"
REPEATS = 60.0  # seconds in which a warning is not said again in the same words
BAR = "    | "  # begins every line of a traceback

# controls of ASCII and Latin-1, line and paragraph separators, marks that reorder text, and halves of surrogate pairs
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str) -> str:
    """Returns a text with line ends and control characters escaped, as Python writes them."""
    return _UNSAFE.sub(lambda match: _escaped(match.group()), text)


def printable(text: str) -> str:
    """Returns lines for a terminal: each is escaped, and stays a line of its own."""
    return "\n".join(map(one_line, text.split("\n")))


def message_lines(text: str) -> str:
    """Returns a message in which every line but the first is indented, so that none of them can pass for another."""
    first, *rest = printable(text).split("\n")
    return "\n".join([first, *(line if line.startswith("  ") or not line else f"  {line}" for line in rest)])


def json_line(text: str) -> str:
    """Returns JSON with the same values, in which controls and halves of surrogate pairs are escapes."""
    return _UNSAFE.sub(lambda match: match.group() if match.group() in _SHORT else f"\\u{ord(match.group()):04x}", text)


def _escaped(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


class LogLines(logging.Formatter):
    """A formatter for one line a record."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        return one_line(super().formatMessage(record))

    def formatException(self, exc_info: logging._SysExcInfoType) -> str:
        """Returns a traceback, each line behind a bar."""
        return _barred(super().formatException(exc_info))

    def formatStack(self, stack_info: str) -> str:
        """Returns a stack, each line behind a bar."""
        return _barred(stack_info)


class Repeats(logging.Filter):
    """A filter that drops a warning if the same words came less than `REPEATS` seconds ago; errors always pass."""

    MAX_TEXTS = 1000  # beyond it, what was said is forgotten

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], float] = {}  # time of a warning, seconds, by logger and text

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a record is news."""
        if record.levelno != logging.WARNING:
            return True
        key = (record.name, record.getMessage())
        with self._lock:
            before = self._said.get(key)
            if before is not None and 0 <= record.created - before < REPEATS:
                return False
            if len(self._said) >= self.MAX_TEXTS:
                self._said.clear()
            self._said[key] = record.created
        return True


def _barred(text: str) -> str:
    return "\n".join(BAR + one_line(line) for line in text.split("\n"))
