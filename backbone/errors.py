"""The one error that means "the input or the configuration is at fault", and a helper to word it.

The console command turns `InputError` into exit status 2. Any other exception is a defect of the program (exit
status 1). A message names the culprit, the expectation and the remedy.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

MAX_NAME = 200  # characters of a name beyond which none is near to it


class InputError(ValueError):
    """A fault of input, file or configuration that the caller can mend."""


class Stopped(SystemExit):
    """The end of a process by a signal, after its run has saved its state; no handler of errors goes on from it."""

    exit_status = 143  # status of the console command, as the shell's for SIGTERM

    def __init__(self, message: str):
        super().__init__(message)
        self.code = self.exit_status


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns words for "did you mean": the closest names in `known`, or all of them if they are few."""
    names = sorted({name if name == name.strip() else repr(name) for name in known})  # blanks at an end are seen
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4) if len(name) <= MAX_NAME else []
    if close:
        return "nearest: " + ", ".join(close)
    if len(names) <= 12:
        return "known: " + (", ".join(names) or "none")
    return "known: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"


class _Short(reprlib.Repr):
    """Short representations, also of whole numbers that Python writes in no decimal digits."""

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:
            return f"<a number of {x.bit_length()} bits>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: Any) -> str:
    """Returns a value from outside as a message may quote it: in quotes, without line ends, and short at any size."""
    return _SHORT.repr(value)


def counted(number: int, noun: str) -> str:
    """Returns a number of things in words: `1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
