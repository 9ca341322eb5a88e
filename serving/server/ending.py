"""The end of a server by a signal, from the first instant of the process on. Imports nothing slow.

Before the server listens, SIGTERM and SIGINT end the process at once, with status 0: nothing is lost. From then on they
ask the server to drain. The handlers are set before the slow imports. A process with the number 1, as in a container,
has no default action, and would miss a signal that comes earlier than its handler.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SWALLOWED = 3.0  # seconds after which `Ended` counts as swallowed
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ended(SystemExit):
    """A signal came before the server listened. Status 0."""


class _State:
    """What a signal does now."""

    caught = False  # the handlers are ours
    process = False  # the process serves and does nothing else
    came = False  # a signal came
    over = False  # the server has drained: a signal changes nothing
    drain: Callable[[], None] | None = None  # asks the server that listens to drain


def catch_signals() -> None:
    """Handles the signals from now on, if this is the main thread, which alone may."""
    if threading.current_thread() is threading.main_thread():
        _State.caught, _State.came, _State.over, _State.drain = True, False, False, None
        for number in SIGNALS:
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    _State.came = True
    if _State.drain is not None:
        _State.drain()
    elif not _State.over:
        if _State.process:
            threading.Thread(target=_make_sure, name="ending", daemon=True).start()
        raise Ended(0)


def _make_sure() -> None:
    """Ends the process after a while, where a callback of a library has swallowed `Ended`."""
    time.sleep(SWALLOWED)
    if _State.drain is None and not _State.over:
        _leave()


def catch_signals_of_process() -> None:
    """Handles the signals of a process that serves and does nothing else."""
    catch_signals()
    _State.process = True


def leave_behind() -> None:
    """Ends the process without the work that Python does last: a thread is in a library that this would crash."""
    if _State.process:
        atexit.register(_leave)


def _leave() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Handles the signals in the block, unless they are handled already."""
    if _State.caught or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    catch_signals()
    try:
        yield
    finally:
        _State.caught = False
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def draining(drain: Callable[[], None]) -> Iterator[None]:
    """Calls `drain` on a signal in the block, or at once if one came before; after the block signals change nothing."""
    _State.drain = drain
    if _State.came:  # a callback of a library may have swallowed `Ended`
        drain()
    try:
        yield
    finally:
        _State.over, _State.drain = True, None
