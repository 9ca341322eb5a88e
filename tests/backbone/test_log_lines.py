"""One record is one line: no text from outside begins another, or rewrites what a terminal shows."""

from __future__ import annotations

import io
import json
import logging

import pytest

from backbone.console.log_lines import BAR, REPEATS, LogLines, Repeats, json_line, message_lines, one_line
from tests.command import call


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
    for _ in range(2):
        logging.getLogger("serving.test").warning("no store")
    assert capfd.readouterr().err.count("no store") == 1


def test_a_warning_is_said_once_a_minute_and_an_error_each_time():
    """Rows are read several times in a run; what is wrong with them is one thing to know."""
    news = Repeats()

    def shown(text: str, at: float, level: int = logging.WARNING, name: str = "rows") -> bool:
        record = logging.LogRecord(name, level, __file__, 1, text, (), None)
        record.created = at
        return news.filter(record)

    assert shown("2 rows were cut", 100.0)
    assert not shown("2 rows were cut", 100.0 + REPEATS - 1)
    assert shown("3 rows were cut", 101.0)
    assert shown("2 rows were cut", 101.0, name="images")
    assert shown("2 rows were cut", 101.0, logging.ERROR)
    assert shown("2 rows were cut", 101.0, logging.ERROR)
    assert shown("2 rows were cut", 100.0 + REPEATS)
    assert shown("2 rows were cut", 50.0)  # the clock was set back
    for number in range(Repeats.MAX_TEXTS):
        assert shown(f"row {number} was cut", 200.0)
    assert shown("2 rows were cut", 51.0)  # of so many texts the first are forgotten


def test_the_command_prints_no_line_of_somebody_else(tmp_path, capsys):
    """Names of files, labels and columns may hold line ends and controls; JSON keeps their values."""
    forged = "a\ntopgraft retrain: done\x1b[2J\u2028b"
    lines = [f'some words of row {n},"{forged if n % 2 else "c"}"' for n in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    words = ("check", tmp_path / "rows.csv")
    status, out, _ = call(*words, capsys=capsys)
    assert status == 0
    assert not any(line.startswith("topgraft") for line in out.splitlines())
    assert "\x1b" not in out
    status, out, _ = call(*words, "--json", capsys=capsys)
    assert any("topgraft retrain: done" in label for label in json.loads(out)["labels"])
    assert "\u2028" not in out
    assert len(out.splitlines()) == 1
    status, _, err = call("check", tmp_path / forged, capsys=capsys)
    assert status == 2
    assert not any(line.startswith("topgraft retrain") for line in err.splitlines())
    assert "\x1b" not in err


def test_lines_of_a_message_are_indented_and_json_keeps_its_values():
    assert message_lines("two:\n  one\nforged\x07") == "two:\n  one\n  forged\\x07"
    values = {"a": "\x9b\u202e\ud800\t\n"}
    text = json_line(json.dumps(values, ensure_ascii=False, indent=1))
    assert json.loads(text) == values
    text.encode("utf-8")
