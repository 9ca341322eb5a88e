"""The audit of fifty versions on both databases, against figures computed by hand, and its page."""

from __future__ import annotations

import re
import time
from datetime import date

import pytest

import topgraft
from registry.budgets.audit import audit_budgets
from registry.budgets.limits import LIMITS
from registry.budgets.page import audit_page, spark
from registry.budgets.read import read_budgets
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
reason = "r"
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
