"""What a run says of its progress, on a terminal and in a log."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import topgraft
from trainers.runs import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines_and_a_terminal_a_bar(monkeypatch, caplog):
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with (
        caplog.at_level(logging.INFO, logger="trainers"),
        logs.bar(1000, "steps", "batch", show=True, initial=200) as shown,
    ):
        shown.update(100)
        shown.set_postfix(loss="0.5000", refresh=False)
        for _ in range(3):
            shown.update(100)
    assert caplog.messages == [
        "steps: 400 of 1,000 (batch, 5 a second, about 120 s left), loss 0.5000",
        "steps: 600 of 1,000 (batch, 5 a second, about 80 s left), loss 0.5000",
    ]
    assert logs.sys.stderr.getvalue() == ""
    monkeypatch.undo()
    monkeypatch.setattr("sys.stderr", Terminal())
    with logs.bar(10, "steps", "batch", show=True) as shown:
        shown.update(10)
    assert "\rsteps" in logs.sys.stderr.getvalue()
    monkeypatch.setattr("sys.stderr", Terminal())
    with logs.bar(10, "steps", "batch", show=False) as shown:
        shown.update(10)
    assert logs.sys.stderr.getvalue() == ""


def test_a_run_in_a_log_prints_a_short_table_and_neither_bars_nor_messages_of_tfds(config, tmp_path, capfd):
    words = ["train", str(config), "--set", "adapter.method=probe", "--workdir", str(tmp_path / "run")]
    assert topgraft.main(words) == 0
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["stored", "dev", "test", "trained", "took", "report"]
    both = out + err
    assert "\r" not in both
    assert "Downloading and preparing" not in both
    assert "Shuffling" not in both
    assert topgraft.main([*words[:-1], str(tmp_path / "other"), "--quiet"]) == 0
    assert capfd.readouterr().err == ""
