"""httperf's histogram, as httperf 0.9.0 of Debian prints it."""

from __future__ import annotations

import pytest

from benchmarks.scenarios import percentiles_of, pinned, stated

PRINTED = """\
Maximum connect burst length: 5

Connection lifetime histogram (time in ms):
             0.5 33
             1.5 14
             7.5 3
             :
            11.5 40
             :
            97.5 10

Total: connections 100 requests 100 replies 100 test-duration 2.783 s

Connection time [ms]: min 0.3 avg 15.6 max 97.2 median 11.5 stddev 19.0
Reply status: 1xx=0 2xx=99 3xx=0 4xx=1 5xx=0

CPU time [s]: user 0.13 system 0.66 (user 4.6% system 23.7% total 28.2%)
"""


def test_percentiles_of_the_histogram():
    text = PRINTED.replace("             7.5 3\n", "             7.5 2\n").replace("11.5 40", "11.5 41")
    # 49, 90 and 100 queries up to the last bins: the first of 41, the fifth and the ninth of 10
    assert percentiles_of(text) == pytest.approx({"p50": 11 + 1 / 41, "p95": 97.5, "p99": 97.9})
    assert stated(text, r"Reply status: 1xx=\d+ 2xx=(\d+)") == 99
    assert stated(text, r"CPU time .*total ([\d.]+)%\)") == 28.2


def test_a_histogram_that_was_misread_is_no_figure():
    with pytest.raises(RuntimeError, match="is not the median 50"):
        percentiles_of(PRINTED.replace("median 11.5", "median 50.5"))
    with pytest.raises(RuntimeError, match="does not state"):
        percentiles_of("httperf: connection failed")


def test_a_command_is_kept_on_one_core():
    words = pinned(0)
    assert words[:2] == ["taskset", "--cpu-list"]
    assert words[2].isdigit()
