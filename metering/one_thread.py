"""NumPy's and SciPy's products on one thread, in a process that did not choose their number.

Heads are fitted by many small products. On two threads OpenBLAS spins between them, and on a busy machine one waits for
the other. The last bits hang on the number too, so a run in a notebook would give another content id than the console
command. Whoever sets OPENBLAS_NUM_THREADS has chosen. Libraries other than OpenBLAS are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

CHOSEN = "OPENBLAS_NUM_THREADS"
# names of one function in wheels of NumPy, in wheels of SciPy, and in distributions
NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@functools.cache
def libraries() -> tuple[tuple[Callable[[], int], Callable[[int], object]], ...]:
    """Returns of each OpenBLAS in this process a function that gives its number of threads, and one that sets it."""
    linked: tuple[Any, ...] = (np.linalg._umath_linalg, scipy.linalg._fblas)
    result: list[tuple[Callable[[], int], Callable[[int], object]]] = []
    for module in linked:
        library = ctypes.CDLL(module.__file__)
        for name in NAMES:
            with contextlib.suppress(AttributeError):
                result.append((getattr(library, name.format("get")), getattr(library, name.format("set"))))
                break
    return tuple(result)


class _Users:
    """The threads of this process inside `one_thread`: the last one to leave puts the numbers back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, [0]

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [count() for count, _ in libraries()]
            self._inside += 1
            for _, choose in libraries():
                choose(1)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for (_, choose), count in zip(libraries(), self._before, strict=True):
                    choose(count)


_USERS = _Users()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Gives the products inside one thread, unless the environment says how many they have."""
    if CHOSEN in os.environ:
        yield
        return
    _USERS.enter()
    try:
        yield
    finally:
        _USERS.leave()
