"""The names of the tasks that are served, and those nearest to a name that is none of them.

A misspelt name is compared with few others, however many there are: those beside it in alphabetical order, and those
beside it in the order of their last letters. One slip of the pen leaves the letters before or behind it right.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from backbone.errors import MAX_NAME, nearest

BESIDE = 24  # names on either side that are compared
FEW = 64  # names that are all compared


class Names:
    """A fixed set of names."""

    def __init__(self, names: Iterable[str]):
        self._forward = sorted(names)
        self._backward = sorted(name[::-1] for name in self._forward)

    def nearest(self, name: str) -> str:
        """Returns words for "did you mean"."""
        if len(self._forward) <= FEW:
            return nearest(name, self._forward)
        all_of_them = f"{len(self._forward)} tasks are served"
        if len(name) > MAX_NAME:
            return all_of_them
        beside = {*_beside(name, self._forward), *(near[::-1] for near in _beside(name[::-1], self._backward))}
        close = difflib.get_close_matches(name, sorted(beside), n=3, cutoff=0.4)
        return f"nearest: {', '.join(close)} ({all_of_them})" if close else all_of_them


def _beside(name: str, ordered: Sequence[str]) -> Sequence[str]:
    place = bisect_left(ordered, name)
    return ordered[max(0, place - BESIDE) : place + BESIDE]
