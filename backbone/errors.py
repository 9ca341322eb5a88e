"""The one error that means "the input or the configuration is at fault", and helpers to word it.

The console command turns `InputError` into exit status 2; any other exception is a defect of the
program (exit status 1). A message names the culprit, what was expected, and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, file or configuration: the caller can mend it."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Words for "did you mean": the names in `known` closest to `name`, or all of them if few."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4)
    if close:
        return "nearest: " + ", ".join(close)
    if len(names) <= 12:
        return "known: " + (", ".join(names) or "none")
    return "known: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"
