"""The audit of fifty versions on both databases, against figures computed by hand, and its page."""

from __future__ import annotations

import logging
import math
import re
import time
from dataclasses import replace
from datetime import date, datetime

import pytest

import topgraft
from registry import tables
from registry.budgets.audit import DAY, MAX_POINTS, BudgetAudit, Trend, audit_budgets
from registry.budgets.judge import Finding
from registry.budgets.limits import LIMITS, is_floor
from registry.budgets.page import OVER, audit_page, spark
from registry.budgets.propose import propose
from registry.budgets.read import read_budgets
from registry.budgets.usage import Served, UsageLine
from tests.browser import WIDTHS, needs_chromium, shown
from tests.registry.fleet import fill
from tests.tiny import as_json

NOW = 1_800_000_000.0
TEXT = """\
[default]
floors.accuracy = 0.8935
owner = "platform"

[group.cheap]
tasks = ["task00[0-4]"]
owner = "<cheap> & co"
max_cpu_seconds = 135
max_latency_ms = 5.4

[task.task009]
max_memory_mb = 10

[[exception]]
task = "task004"
limit = "max_cpu_seconds"
value = 200
owner = "A"
reason = "r"
until = 2027-06-30

[[exception]]
task = "task003"
limit = "max_cpu_seconds"
owner = "B"
reason = "because of b"
until = 2026-06-30

[[exception]]
task = "task002"
limit = "max_latency_ms"
owner = "C"
reason = "r"
until = 2027-06-30
"""


@pytest.fixture
def audited(registry, tmp_path):
    fill(registry, tasks=10, each=5, at=NOW)
    (tmp_path / "team.toml").write_text(TEXT)
    budgets = read_budgets(tmp_path / "team.toml")
    return audit_budgets(registry, budgets, days=2, now=NOW + 1, today=date(2027, 1, 1))


def test_what_breaks_which_budget(audited, tmp_path):
    assert (audited.tasks, audited.versions, len(audited.approvals)) == (10, 50, 10)
    broken = [(one.task, one.version, one.limit, one.value, one.source) for one in audited.over]
    file = tmp_path / "team.toml"
    latency = [(f"task00{t}", 5, "max_latency_ms", 5.5, f"{file}:9 max_latency_ms") for t in (0, 1, 3, 4)]
    # CPU seconds of version 5 are 105, 115, 125, 135, 145; only the last is over 135, and it has an exception
    floors = [(f"task00{t}", 5, "floors.accuracy", 0.9 - t / 1000, f"{file}:2 floors.accuracy") for t in (7, 8, 9)]
    assert sorted(broken) == sorted(latency + floors)
    assert [(one.task, one.limit) for one in audited.missing] == [("task009", "max_memory_mb")]
    assert [(one.task, one.limit) for one in audited.excepted] == [("task002", "max_latency_ms")]
    assert audited.exit_status == 10
    # of versions 1 to 4 only accuracy is wrong: CPU seconds of task004 are below 200, latencies at most 5.4
    assert audited.former_over == {f"task00{t}": 4 for t in (7, 8, 9)}


def test_owners_trends_exceptions_and_approvals(audited):
    rows = {one.owner: one for one in audited.owners}
    assert set(rows) == {"<cheap> & co", "platform"}
    cheap = rows["<cheap> & co"]
    assert (cheap.tasks, cheap.live, cheap.over, cheap.missing) == (5, 5, 4, 0)
    # two days: versions 4 and 5; the two before: versions 2 and 3
    assert cheap.cpu_seconds == sum(100 + 10 * t + v for t in range(5) for v in (4, 5))
    assert cheap.cpu_seconds_before == sum(100 + 10 * t + v for t in range(5) for v in (2, 3))
    assert cheap.joules == {"modelled": 6 * cheap.cpu_seconds}
    trend = next(one for one in audited.trends if (one.task, one.limit) == ("task001", "max_cpu_seconds"))
    assert (trend.versions, trend.values) == ((1, 2, 3, 4, 5), (111, 112, 113, 114, 115))
    assert trend.change == pytest.approx(115 / 111 - 1)
    assert [(one.task, one.holds) for one in audited.exceptions] == [
        ("task004", True),
        ("task003", False),
        ("task002", True),
    ]
    assert [one.actor for one in audited.approvals[:4]] == ["person0", "person1", "person2", "person0"]
    assert rows["platform"].missing == 1


def audit_at(registry, tmp_path, text: str, **options) -> BudgetAudit:
    (tmp_path / "team.toml").write_text(text)
    budgets = read_budgets(tmp_path / "team.toml")
    return audit_budgets(registry, budgets, **{"days": 2, "now": NOW + 1, "today": date(2027, 1, 1)} | options)


def test_an_approval_is_the_last_entry_of_the_log(registry, tmp_path):
    fill(registry, tasks=2, each=3, at=NOW)
    actor, reason, at = "someone@desk", "by hand", time.time()
    registry.promote("task001", 2, expected_generation=3, actor=actor, reason=reason, verdict="MANUAL")
    run = {"actor": "worker7:412:9f3c", "reason": "new rows", "verdict": "PASS"}
    registry.promote("task000", 1, expected_generation=3, **run)
    registry.promote("task000", 2, expected_generation=4, **run | {"actor": "worker8:1:77"})
    one, other = audit_at(registry, tmp_path, '[task.task001]\nowner = "answers team"\n').approvals
    assert (one.version, one.owner, one.actor, one.by) == (2, "", "worker8:1:77", "retrain on worker8")
    told = (other.version, other.owner, other.actor, other.by, other.verdict, other.reason)
    assert told == (2, "answers team", actor, actor, "MANUAL", reason)
    assert abs(datetime.fromisoformat(other.at).timestamp() - at) < 60


def test_the_last_measurement_of_a_name_counts(registry, tmp_path):
    fill(registry, tasks=1, each=1, at=NOW)
    registry.measure("task000", 1, "memory, MB", 30.0, "measured_counter")
    registry.measure("task000", 1, "memory, MB", 20.0, "measured_counter")
    (trend,) = audit_at(registry, tmp_path, "[default]\nmax_memory_mb = 25\n").trends
    assert (trend.values, trend.change) == ((20.0,), None), "one version is a trend too"


def test_a_trend_is_of_the_newest_versions(registry, tmp_path):
    fill(registry, tasks=1, each=MAX_POINTS + 3, at=NOW)
    (trend,) = audit_at(registry, tmp_path, "[default]\nmax_cpu_seconds = 1e6\n").trends
    assert trend.versions == tuple(range(4, MAX_POINTS + 4))


def test_a_row_counts_live_tasks_and_the_two_periods(registry, tmp_path):
    fill(registry, tasks=3, each=2, at=NOW)
    with registry.database.writing("task002") as connection:
        connection.execute(tables.live.delete().where(tables.live.c.task == "task002"))
    ends = (-0.5, -1.5, -2.5, -3.5, -4.5)  # days; the last one is before both periods
    usage = [UsageLine(0, NOW + d * DAY, "modelled", {"task000": Served(10**i, 1.0, 1.0)}) for i, d in enumerate(ends)]
    result = audit_at(registry, tmp_path, "[default]\nmax_memory_mb = 1\n", usage=usage)
    (row,) = result.owners
    assert (row.tasks, row.live, row.over, row.missing) == (3, 2, 0, 2)
    assert (row.answers.answers, row.answers_before.answers) == (11, 1100)
    assert result.table().startswith("3 tasks, 6 versions, 2 live; ")


def test_the_table_says_what_ended_and_which_period_is_which(audited):
    text = audited.table()
    ended = [line for line in text.splitlines() if line.startswith("exception ended")]
    assert [line.partition(" (")[0] for line in ended] == ["exception ended 2026-06-30: task003 max_cpu_seconds"]
    assert "<cheap> & co: 5 tasks, 4 over, 0 without a figure; trainings 1245 CPU s in 2 days, 1225 in those" in text


def section(page: str, title: str) -> str:
    return page.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def test_each_section_of_the_page_holds_its_rows(audited, tmp_path):
    page, file = audit_page(audited, "now"), f"{tmp_path}/team.toml"
    assert "10 tasks, 50 versions, 10 live; 12 former versions would break a limit" in page
    over = cells(section(page, "Over budget"))
    assert over[1][:7] == ["task000", "5", "max_latency_ms", "5.5", "5.4", "ms", f"{file}:9"]
    assert len(over) == 1 + 7
    missing = cells(section(page, "Without a figure"))[1:]
    assert [row[:5] for row in missing] == [["task009", "5", "max_memory_mb", "-", "10"]]
    assert [row[0] for row in cells(section(page, "Waived"))[1:]] == ["task002"]
    ended = [["task003", "max_cpu_seconds", "B", "because of b", "2026-06-30", f"{file}:22"]]
    assert cells(section(page, "Exceptions that ended"))[1:] == ended
    holds = cells(section(page, "Exceptions that hold"))[1:]
    assert [row[:4] for row in holds] == [
        ["task004", "max_cpu_seconds", "200", "A"],
        ["task002", "max_latency_ms", "waived", "C"],
    ]
    (head, cheap, _) = cells(section(page, "Owners"))
    assert dict(zip(head, cheap, strict=True))["CPU s of trainings in 2 days"] == "1245"
    assert "CPU s and J of 1,000 answers" in head
    assert cells(section(page, "Approved by"))[1][3] == "retrain on person0"


def test_trends_nearest_to_their_bound_come_first(audited):
    rows = cells(section(audit_page(audited, "now"), "Trends"))[1:]
    rooms = {
        (one.task, one.limit): math.inf
        if one.bound is None
        else (one.bound - one.values[-1]) / one.bound * (-1 if is_floor(one.limit) else 1)
        for one in audited.trends
    }
    assert [(row[0], row[1]) for row in rows] == sorted(rooms, key=rooms.get)
    assert rows[-1][:2] == ["task002", "max_latency_ms"], "what is waived has room"
    (row,) = [row for row in rows if row[:2] == ["task001", "max_cpu_seconds"]]
    assert row[2:5] == ["115", "135", "+4%"]


def test_numbers_of_the_page_are_those_of_the_file():
    trend = Trend("a", "max_joules", 20000.0, (1, 2), (17123.0, 23456.0))
    empty = BudgetAudit("r", "b", 1, 2, 30.0, (), (), (), {}, (), (), (trend,), (), 0.0)
    page = audit_page(empty, "now")
    assert cells(section(page, "Trends"))[1][2:5] == ["23456", "20000", "+37%"]
    assert "Budgets: no limit broken" in page
    assert "1 task, 2 versions, 0 live; 0 former versions" in page
    finding = Finding("a", 2, "max_joules", "FAIL", 23456.0, 20000.0, "modelled", "b:1 max_joules", "r")
    page = audit_page(replace(empty, over=(finding,)), "now")
    assert "Budgets: 1 limit broken" in page
    assert cells(section(page, "Over budget"))[1][3:5] == ["23456", "20000"]


@pytest.mark.parametrize(
    ("limit", "values", "red"),
    [
        ("max_cpu_seconds", (1.0, 2.0, 1.5), [False]),
        ("max_cpu_seconds", (1.0, 9.0, 1.5), [True, False]),
        ("max_cpu_seconds", (1.0, 2.0, 9.0), [True]),
        ("min_score", (9.0, 9.0, 1.0), [True]),
        ("min_score", (9.0, 9.0), [False]),
    ],
)
def test_a_version_over_its_bound_is_red(limit, values, red):
    drawn = spark(Trend("a", limit, 5.0, tuple(range(len(values))), values))
    assert [f'fill="{OVER}"' in circle for circle in re.findall(r"<circle[^>]*>", drawn)] == red
    heights = [float(p.split(",")[1]) for p in re.search(r'points="([^"]+)"', drawn)[1].split()]
    bound = float(re.search(r'<line [^>]*y1="([^"]+)"', drawn)[1])
    assert [height < bound for height in heights] == [value > 5 for value in values], "the bound lies between them"


def test_the_page_stands_alone_and_text_from_outside_is_text(audited):
    page = audit_page(audited, "now")
    assert "Budgets: 7 limits broken" in page
    assert "&lt;cheap&gt; &amp; co" in page
    assert "<cheap>" not in page
    assert not re.search(r"<script|src=|href=|@import|url\(", page), "no script, no network"
    assert page.count("<svg") == len(audited.trends)
    trend = next(one for one in audited.trends if (one.task, one.limit) == ("task001", "max_cpu_seconds"))
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', spark(trend))[1].split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True), "it rises"


@needs_chromium
def test_the_page_in_a_browser(audited, tmp_path):
    page = tmp_path / "audit.html"
    page.write_text(audit_page(audited, "2027-01-01 12:00"))
    for width in WIDTHS:
        shown(page.as_uri(), tmp_path, width, "audit")


def test_the_verb(url, registry, store, tmp_path, capsys):
    fill(registry, tasks=2, each=2, at=time.time())
    words = ["audit", "--registry", url, "--store", str(store.root)]
    assert topgraft.main([*words, "--json", "--propose", str(tmp_path / "new.toml"), "--slack", "0.1"]) == 0
    answer = as_json(capsys.readouterr().out)
    assert (answer["versions"], answer["budgets"], answer["over"]) == (4, "", [])
    text = (tmp_path / "new.toml").read_text()
    assert '[task."task001"]  # version 2' in text
    assert "max_cpu_seconds = 130.0" in text, "112 * 1.1 = 123.2, in two digits"
    limits = {one.name: one.value for one in read_budgets(tmp_path / "new.toml").of("task001").limits}
    assert limits == {"min_score": 0.89, "max_cpu_seconds": 130, "max_joules": 740, "max_latency_ms": 5.8} | {
        "max_flops": 1.3e12,
        "max_bytes": 1.3e11,
    }
    assert set(limits) <= set(LIMITS)
    page = tmp_path / "audit.html"
    assert topgraft.main([*words, "--budgets", str(tmp_path / "new.toml"), "--html", str(page)]) == 0, "all within"
    assert "no limit broken" in page.read_text()
    assert "2 tasks, 4 versions, 2 live" in capsys.readouterr().out
    assert topgraft.main([*words, "--propose", str(page)]) == 2, "nothing is overwritten"
    assert topgraft.main([*words, "--slack", "0.5"]) == 2
    (tmp_path / "tight.toml").write_text("[default]\nmax_cpu_seconds = 1\n")
    assert topgraft.main([*words, "--budgets", str(tmp_path / "tight.toml"), "--quiet"]) == 10
    assert (
        f"over budget: task000 2: {tmp_path}/tight.toml:2 max_cpu_seconds: 102 CPU s, at most 1"
        in capsys.readouterr().out
    )
    (tmp_path / "more.toml").write_text("[default]\nmax_memory_mb = 1\n")
    assert topgraft.main([*words, "--budgets", str(tmp_path / "more.toml"), "--quiet"]) == 11


def test_what_the_verb_writes_and_where_it_cannot(url, registry, store, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    fill(registry, tasks=1, each=1, at=time.time())
    words, new = ["audit", "--registry", url, "--store", str(store.root)], str(tmp_path / "new.toml")
    for option in ("--html", "--propose"):
        assert topgraft.main([*words, option, str(tmp_path / "none" / "file")]) == 2
        assert f"{option}: {tmp_path}/none/file: cannot be written: No such file" in capsys.readouterr().err
    assert topgraft.main([*words, "--html", str(tmp_path)]) == 2
    assert topgraft.main([*words, "--propose", new, "--slack", "1e308"]) == 2
    assert "--slack: 1e+308 of room leaves no finite max_" in capsys.readouterr().err
    caplog.clear()
    assert topgraft.main([*words, "--propose", new, "--slack", "25", "--html", str(tmp_path / "a.html")]) == 0
    assert "--slack: 25 leaves 2500 % of room" in caplog.text
    assert f"--propose: {new}: limits of 1 task" in caplog.text
    assert f"--html: {tmp_path}/a.html: the page" in caplog.text


def test_a_proposal_is_of_the_live_version_and_keeps_owners(registry, store, tmp_path):
    fill(registry, tasks=1, each=3, at=NOW)
    registry.promote("task000", 1, expected_generation=3, actor="a", reason="r", verdict="MANUAL")
    registry.measure("task000", 1, "memory, MB", 30.0, "measured_counter")
    registry.measure("task000", 3, "memory, MB", 70.0, "measured_counter")
    (tmp_path / "team.toml").write_text('[task.task000]\nowner = "the \\"answers\\" team"\n')
    propose(registry, store, tmp_path / "new.toml", 0.0, read_budgets(tmp_path / "team.toml"))
    budget = read_budgets(tmp_path / "new.toml").of("task000")
    limits = {one.name: one.value for one in budget.limits}
    assert (limits["max_memory_mb"], limits["max_latency_ms"]) == (30.0, 5.1)
    assert budget.owner == 'the "answers" team'
    registry.measure("task000", 1, "retraining, joules", None, "unavailable")
    propose(registry, store, tmp_path / "other.toml", 0.0)
    other = read_budgets(tmp_path / "other.toml").of("task000")
    assert (other.owner, other.joules_quality) == ("", "")


def test_floors_of_a_proposal_are_rounded_down(registry, store, tmp_path):
    fill(registry, tasks=3, each=1, at=NOW)
    propose(registry, store, tmp_path / "new.toml", 0.0)
    scores = {one.name: one.value for one in read_budgets(tmp_path / "new.toml").of("task002").limits}
    assert scores["min_score"] == 0.89, "of 0.898"
