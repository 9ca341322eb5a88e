"""Threads for calls that may never end: one call a key, deadlines, slow calls that keep no others out."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait

import pytest

from serving.live import readers as module
from serving.live.readers import Readers, Unanswered


@pytest.fixture
def gate():
    """Keeps calls from ending until it is set; set at the end, so that no thread stays."""
    made = threading.Event()
    yield made
    made.set()


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_calls_of_one_key_are_one_call_and_a_cancelled_waiter_harms_no_other(gate):
    readers, calls = Readers("read"), []
    waiters: list[Future[str]] = [
        readers.submit("a", "a", lambda: calls.append(1) or (gate.wait(60) and "done")) for _ in range(3)
    ]
    waiters[1].cancel()
    gate.set()
    assert [waiters[number].result(60) for number in (0, 2)] == ["done", "done"]
    assert calls == [1]
    until(lambda: not readers._calls)
    assert readers.call("a", "a", lambda: "again") == "again", "a call that has ended is made anew"


def test_what_a_call_raises_reaches_every_waiter():
    def fails() -> None:
        raise SystemExit("even this")

    with pytest.raises(SystemExit, match="even this"):
        Readers("read").call("a", "a", fails)


def test_a_call_without_end_fails_its_waiters_and_nobody_waits_for_it_again(gate):
    readers = Readers("read", seconds=0.2)
    with pytest.raises(Unanswered, match=r"^graft 3: no end after 0 s"):
        readers.call("a", "graft 3", lambda: gate.wait(60))
    start = time.monotonic()
    with pytest.raises(Unanswered, match="graft 3"):
        readers.call("a", "graft 3", lambda: "never made")
    assert time.monotonic() - start < 0.15, "at once, without another thread"
    assert readers.overdue == 1
    assert readers.call("b", "b", lambda: "b") == "b"
    gate.set()
    until(lambda: not readers.overdue)
    assert readers.call("a", "graft 3", lambda: "well") == "well"


def test_slow_calls_keep_no_others_out(gate, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    readers = Readers("read", threads=2, seconds=None)
    slow = [readers.submit(number, "slow", lambda: gate.wait(60)) for number in range(6)]
    assert readers.call("quick", "quick", lambda: "here") == "here", "behind three pairs of slow ones"
    gate.set()
    assert not wait(slow, 60).not_done


def test_threads_are_bounded_and_what_never_began_says_so(gate, monkeypatch):
    monkeypatch.setattr(module, "MAX_THREADS", 3)
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    readers = Readers("bounded", seconds=0.3)
    before = threading.active_count()
    calls = [readers.submit(number, f"graft {number}", lambda: gate.wait(60)) for number in range(8)]
    messages = [str(call.exception(60)) for call in calls]
    assert sum("no end after" in message for message in messages) == 3
    assert sum("not begun within" in message for message in messages) == 5
    assert threading.active_count() - before <= 4, "three calls and the watch"


def test_closing_fails_the_waiters_and_what_comes_later(gate):
    readers = Readers("read")
    waiting = readers.submit("a", "a", lambda: gate.wait(60))
    readers.close()
    for call in (waiting, readers.submit("a", "a", str), readers.submit("b", "b", str)):
        with pytest.raises(Unanswered, match="shutting down"):
            call.result(60)
