"""States below the adapted blocks, kept by prepared input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class PrefixCache:
    """Least recently used states by prepared input, within a byte budget; used by the device thread only."""

    def __init__(self, budget: int):
        self.budget, self.bytes = budget, 0
        self._states: OrderedDict[tuple[int, bytes], dict[int, np.ndarray]] = OrderedDict()

    def get(self, key: tuple[int, bytes], wanted: Sequence[int]) -> dict[int, np.ndarray] | None:
        found = self._states.get(key)
        if found is None or any(boundary not in found for boundary in wanted):
            return None
        self._states.move_to_end(key)
        return found

    def put(self, key: tuple[int, bytes], states: dict[int, np.ndarray]) -> None:
        former = self._states.pop(key, {})
        states = {**former, **states}
        self.bytes += self._size(states) - self._size(former)
        self._states[key] = states
        while self.bytes > self.budget and self._states:
            self.bytes -= self._size(self._states.popitem(last=False)[1])

    @staticmethod
    def _size(states: dict[int, np.ndarray]) -> int:
        return sum(state.nbytes for state in states.values())
