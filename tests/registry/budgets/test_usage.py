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
    assert read_usage([str(tmp_path / "u.jsonl")] * 2) == tuple(lines * 2)
    with (tmp_path / "u.jsonl").open("a") as file:
        file.write('{"start": 1')
    assert read_usage([str(tmp_path / "u.jsonl")]) == tuple(lines)
    assert "u.jsonl:3: left out" in caplog.text


@pytest.mark.parametrize("content", ["{}\n", "no json\n", '{"start": "then", "end": 1, "quality": "", "tasks": {}}\n'])
def test_what_no_server_wrote_is_refused(content, tmp_path):
    (tmp_path / "u.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"u\.jsonl:1: no line"):
        read_usage([str(tmp_path / "u.jsonl")])
    with pytest.raises(InputError, match="unreadable"):
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
