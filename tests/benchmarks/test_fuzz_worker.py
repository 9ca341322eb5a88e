"""What counts as a fault of a reader: an error that is no refusal, and an input that is slow each time."""

from __future__ import annotations

import time

from benchmarks.fuzz import worker


class Reading:
    """A reader whose n-th call takes so many CPU seconds, or raises."""

    def __init__(self, *seconds: float, error: Exception | None = None):
        self.seconds, self.error, self.calls = list(seconds), error, 0

    def once(self, number: int) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        ends = time.process_time() + self.seconds.pop(0)
        while time.process_time() < ends:
            pass
        return "read"


def test_what_is_compiled_once_is_no_fault_and_what_is_slow_each_time_is(monkeypatch):
    monkeypatch.setattr(worker, "SLOW", 0.05)
    assert worker.once(quick := Reading(0.0), 7) == ("read", None)
    assert quick.calls == 1
    assert worker.once(Reading(0.1, 0.0), 7) == ("read", None)
    result, line = worker.once(Reading(0.1, 0.1), 7)
    assert (result, line["kind"], line["number"], line["where"]) == ("fault", "slow", 7, "read")


def test_an_error_is_a_fault_with_its_place():
    result, line = worker.once(reader := Reading(error=KeyError("labels")), 3)
    assert (result, line["kind"], line["says"]) == ("fault", "KeyError", "'labels'")
    assert line["where"].endswith("test_fuzz_worker.py:once")
    assert reader.calls == 1
