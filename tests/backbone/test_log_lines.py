"""One record is one line: no text from outside begins another, or rewrites what a terminal shows."""

from __future__ import annotations

import io
import logging

import pytest

from backbone.console.log_lines import BAR, LogLines, one_line


def logged(message: str, *arguments: object, error: BaseException | None = None) -> list[str]:
    """The lines that a logger with our formatter writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogLines())
    logger = logging.Logger("forged")
    logger.addHandler(handler)
    logger.error(message, *arguments, exc_info=error)
    return stream.getvalue().split("\n")[:-1]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\n2026-01-01 00:00:00,000 INFO forged", "a\\n2026-01-01 00:00:00,000 INFO forged"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[2K\x07", "\\x1b[2K\\x07"),
        ("a\x85b\u2028c\u2029d", "a\\x85b\\u2028c\\u2029d"),
        ("abc\u202eexe", "abc\\u202eexe"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("Grüße, 日本 😀 \\ %s", "Grüße, 日本 😀 \\ %s"),
    ],
)
def test_a_record_is_one_line(text, escaped):
    assert one_line(text) == escaped
    (line,) = logged("%s: refused", text)
    assert line.endswith(f" ERROR {escaped}: refused")
    assert len(line.splitlines()) == 1, "by any of the line ends that Python knows"


def test_lines_of_a_traceback_are_behind_bars():
    try:
        raise ValueError("x\n2026-01-01 00:00:00,000 INFO forged\x1b[2J")
    except ValueError as error:
        first, *rest = logged("a request failed", error=error)
    assert first.endswith("ERROR a request failed")
    assert rest
    assert all(line.startswith(BAR) for line in rest)
    assert not any("\x1b" in line for line in rest)


def test_the_command_logs_so(capfd, monkeypatch):
    import argparse

    import topgraft

    monkeypatch.setattr(logging.root, "handlers", [])
    topgraft._log_to_stderr(argparse.Namespace(quiet=False))
    logging.getLogger("serving.test").info("%s is live", "a\nb")
    assert capfd.readouterr().err.count("\n") == 1
