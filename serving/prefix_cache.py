"""States below the adapted blocks, kept by prepared input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class PrefixCache:
    """Hidden states by prepared input within a byte budget; used by the device thread only."""

    def __init__(self, budget: int):
        """Limits the cache to `budget` bytes; beyond it the states unused for longest are dropped."""
        self.budget, self.bytes = budget, 0
        self._states: OrderedDict[tuple[int, bytes], dict[int, np.ndarray]] = OrderedDict()

    def get(self, key: tuple[int, bytes], boundaries: Sequence[int]) -> dict[int, np.ndarray] | None:
        """Returns the states [T,D] of an input by boundary; None unless every one of the boundaries is there."""
        states = self._states.get(key)
        if states is None or any(boundary not in states for boundary in boundaries):
            return None
        self._states.move_to_end(key)
        return states

    def put(self, key: tuple[int, bytes], states: dict[int, np.ndarray]) -> None:
        """Keeps states [T,D] of an input by boundary, beside those that are kept already."""
        former = self._states.pop(key, {})
        states = {**former, **states}
        self.bytes += self._size(states) - self._size(former)
        self._states[key] = states
        while self.bytes > self.budget and self._states:
            self.bytes -= self._size(self._states.popitem(last=False)[1])

    @staticmethod
    def _size(states: dict[int, np.ndarray]) -> int:
        return sum(state.nbytes for state in states.values())
