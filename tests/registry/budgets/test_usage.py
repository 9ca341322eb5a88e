"""What servers noted: read, summed by period and quality, judged by limits on answers, reported by owner."""

from __future__ import annotations

from datetime import date

import pytest

from backbone.errors import InputError
from registry.budgets.audit import audit_budgets
from registry.budgets.read import read_budgets
from registry.budgets.usage import PerThousand, Served, UsageLine, append_line, per_thousand, read_usage, summed
from tests.registry.fleet import fill

NOW = 1_800_000_000.0
DAY = 24 * 3600.0
TEXT = """\
[default]
owner = "platform"

[task.task000]
owner = "answers"
joules_quality = "modelled"
answers.max_cpu_seconds_per_1000 = 5
answers.max_joules_per_1000 = 50

[task.task001]
answers.max_cpu_seconds_per_1000 = 5
"""


def line(end: float, quality: str = "modelled", **tasks: tuple[int, float, float]) -> UsageLine:
    return UsageLine(end - 600, end, quality, {task: Served(*values) for task, values in tasks.items()})


def test_what_is_written_is_read(tmp_path, caplog):
    lines = [line(NOW, task000=(10, 0.5, 3.0)), line(NOW + 600, "measured_counter")]
    for one in lines:
        append_line(tmp_path / "u.jsonl", one)
    assert read_usage([str(tmp_path / "u.jsonl")], NOW + 600) == tuple(lines)
    assert not caplog.text


@pytest.mark.parametrize("cut", [1, 8, 30, 120, -2, -1])
def test_half_a_line_is_left_out_and_the_next_one_is_a_line(cut, tmp_path, caplog):
    """A killed server, or a full disk, leaves half a line; the server that comes after it writes on."""
    file, first, next_one = tmp_path / "u.jsonl", line(NOW, **{"a}": (10, 0.5, 3.0)}), line(NOW + 9, a=(1, 0.1, 1.0))
    append_line(file, first)
    text = file.read_text()
    file.write_text(text + text.replace("10", "20").removesuffix("\n")[:cut])
    assert read_usage([str(file)], NOW + 9) == (first,)
    assert f"{file}:2: half a line is left out" in caplog.text
    append_line(file, next_one)
    assert read_usage([str(file)], NOW + 9) == (first, next_one)
    file.write_text(text + text[:60] + text.replace("10", "20"))
    rest = read_usage([str(file)], NOW + 9)
    assert [one.tasks["a}"].rows for one in rest] == [10, 20], "a former version wrote on in the same line"


def test_a_whole_line_without_its_end_counts(tmp_path):
    append_line(tmp_path / "u.jsonl", line(NOW))
    (tmp_path / "u.jsonl").write_text((tmp_path / "u.jsonl").read_text().removesuffix("\n"))
    append_line(tmp_path / "u.jsonl", line(NOW + 9))
    assert read_usage([str(tmp_path / "u.jsonl")], NOW + 9) == (line(NOW), line(NOW + 9))


def test_a_line_counts_once_by_whatever_path_or_copy(tmp_path, caplog):
    file, copy, link = tmp_path / "u.jsonl", tmp_path / "copy.jsonl", tmp_path / "link.jsonl"
    lines = [line(NOW - 9, a=(10, 0.5, 3.0)), line(NOW, a=(10, 0.5, 3.0))]
    append_line(file, lines[0])
    copy.write_text(file.read_text())
    append_line(file, lines[1])
    link.symlink_to(file)
    assert read_usage([str(file), f"{tmp_path}/./u.jsonl", str(copy), str(link)], NOW) == tuple(lines)
    assert f"{copy}:1: read before, so it counts once" in caplog.text
    assert f"{link}:1: read before, so it counts once; the file has 2 such lines" in caplog.text


GOOD = '{"start": 1, "end": 2, "quality": "modelled", "tasks": {"a": {"rows": 3, "cpu_seconds": 0.5, "joules": 3}}}\n'


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (GOOD, "{}\n"),
        (GOOD, "no json\n"),
        ('"start": 1', '"start": "then"'),
        ('"end": 2', '"end": 0.5'),
        ('"start": 1', '"start": -1'),
        ("3,", "-3,"),
        ("0.5", "-0.5"),
        ("3}", "-3}"),
        ("3,", f"1{'0' * 400},"),
        ("3,", f"1{'0' * 5000},"),
        ("0.5", "1e308"),
        ("0.5", "NaN"),
        ("3}", "1e999}"),
        ('"rows": 3', '"rows": 3, "rows": 1'),
        ("}}}", "}}}}"),
    ],
)
def test_what_no_server_wrote_is_refused(former, now, tmp_path):
    assert former in GOOD
    (tmp_path / "u.jsonl").write_text(GOOD + GOOD.replace(former, now))
    with pytest.raises(InputError, match=r"--usage: .*u\.jsonl:2: no line"):
        read_usage([str(tmp_path / "u.jsonl")])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--usage: .*none\.jsonl: cannot be read"):
        read_usage([str(tmp_path / "none.jsonl")])


def test_periods_are_apart_and_qualities_are_never_added():
    lines = [line(NOW - 1, a=(100, 1.0, 8.0)), line(NOW - 1, "measured_counter", a=(300, 2.0, 60.0))]
    lines += [line(NOW, a=(7, 7.0, 7.0)), line(NOW - DAY, a=(9, 9.0, 9.0)), line(NOW - DAY - 1, a=(5, 5.0, 5.0))]
    period = summed(lines, NOW - DAY, NOW)
    assert period["a"]["modelled"] == Served(109, 10.0, 17.0)
    result = per_thousand([period["a"]])
    assert result.answers == 409
    assert result.cpu_seconds == pytest.approx(1e3 * 12 / 409, abs=1e-4)
    assert result.joules == {"modelled": pytest.approx(1e3 * 17 / 109, abs=1e-3), "measured_counter": 200.0}
    assert per_thousand([]) == PerThousand(0, None, {})
    assert per_thousand([{"unavailable": Served(100, 1.0, 0.0)}]) == PerThousand(100, 10.0, {}), "no joules, not 0"


def test_a_clock_that_runs_ahead_and_tasks_that_nobody_knows(registry, tmp_path, caplog):
    fill(registry, tasks=2, each=1, at=NOW - DAY)
    for one in (
        line(NOW - 50, task000=(1000, 1.0, 1.0)),
        line(NOW + 3600, task000=(1000, 9.0, 1.0), gone=(1, 1.0, 1.0)),
    ):
        append_line(tmp_path / "u.jsonl", one)
    usage = read_usage([str(tmp_path / "u.jsonl")], NOW)
    assert f"{tmp_path}/u.jsonl:2: ends after now; 1 line by up to 3600 s" in caplog.text
    (tmp_path / "team.toml").write_text(TEXT)
    budgets = read_budgets(tmp_path / "team.toml")
    result = audit_budgets(registry, budgets, days=2, now=NOW, today=date(2027, 1, 1), usage=usage)
    assert {row.owner: row.answers for row in result.owners}["answers"] == PerThousand(2000, 5.0, {"modelled": 1.0})
    assert "the registry has no 'gone'" in caplog.text


@pytest.mark.parametrize(
    ("usage", "status", "over", "missing"),
    [
        ((line(NOW - 9, task000=(1000, 4.0, 40.0), task001=(1000, 5.0, 0.0)),), 0, [], []),
        ((line(NOW - 9, task000=(1000, 6.0, 40.0), task001=(1000, 5.0, 0.0)),), 10, ["max_cpu_seconds"], []),
        ((line(NOW - 9, task000=(1000, 4.0, 60.0), task001=(1000, 5.0, 0.0)),), 10, ["max_joules"], []),
        (
            (line(NOW - 9, "measured_counter", task000=(1000, 4.0, 60.0), task001=(1000, 5.0, 0.0)),),
            11,
            [],
            ["max_joules"],
        ),
        ((), 11, [], ["max_cpu_seconds", "max_joules", "max_cpu_seconds"]),
    ],
    ids=["within", "CPU seconds over", "joules over", "another quality", "nothing noted"],
)
def test_limits_on_answers_are_judged_by_what_servers_noted(usage, status, over, missing, registry, tmp_path):
    fill(registry, tasks=2, each=1, at=NOW - DAY)
    (tmp_path / "team.toml").write_text(TEXT)
    budgets = read_budgets(tmp_path / "team.toml")
    before = (line(NOW - 2.5 * DAY, task000=(500, 1.0, 5.0)),)
    result = audit_budgets(registry, budgets, days=2, now=NOW, today=date(2027, 1, 1), usage=(*usage, *before))
    assert [one.limit for one in result.over] == [f"answers.{name}_per_1000" for name in over]
    assert [one.limit for one in result.missing] == [f"answers.{name}_per_1000" for name in missing]
    assert result.exit_status == status
    rows = {row.owner: row for row in result.owners}
    assert rows["answers"].answers_before == PerThousand(500, 2.0, {"modelled": 10.0})
    assert rows["platform"].answers.answers == (1000 if usage else 0)
    text = result.table()
    assert "500 answers at 2 CPU s, 10 J modelled for 1,000 before" in text
