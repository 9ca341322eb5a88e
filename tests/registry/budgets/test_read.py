"""A file of budgets: what it may say, what holds for a task, and every mistake with its file and line."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from adapters.target import Target
from backbone.errors import InputError
from registry.budgets.limits import utc_today
from registry.budgets.lines import lines_of
from registry.budgets.place import budget_file, budgets_for
from registry.budgets.read import read_budgets

WHOLE = """\
[default]
max_memory_mb = 900
owner = "platform"

[line.cards]
groups = ["support"]
owner = "cards"
max_latency_ms = 40

[group.support]
tasks = [
  "banking77",
  "support_*",
]
max_latency_ms = 20
joules_quality = "modelled"
max_joules = 500

[task.banking77]
floors.accuracy = 0.9
single_stream.max_p99_ms = 60

[[exception]]
task = "banking77"
limit = "max_latency_ms"
value = 30
owner = "A. Person"
reason = "until the new machines are there"
until = 2027-01-31

[[exception]]
task = "banking77"
limit = "max_memory_mb"
owner = "A. Person"
reason = "measured wrongly"
until = 2026-01-31
"""


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> Path:
        (tmp_path / "budgets.toml").write_text(text)
        return tmp_path / "budgets.toml"

    return written


def test_lines_of_headers_keys_arrays_and_values_over_several_lines():
    text = 'a = """\nx = 1\n[no]\n"""\n[t]\nb.c = 1\n# d = 2\ne = [\n 1,\n]\n[[x]]\nf = 1\n[[x]]\nf = 2\n'
    text += "[x.y]\ng = {h = 1}\n"
    lines = lines_of(text)
    assert lines == {
        ("a",): 1,
        ("t",): 5,
        ("t", "b"): 6,
        ("t", "b", "c"): 6,
        ("t", "e"): 8,
        ("x", 0): 11,
        ("x", 0, "f"): 12,
        ("x", 1): 13,
        ("x", 1, "f"): 14,
        ("x", 1, "y"): 15,
        ("x", 1, "y", "g"): 16,
        ("x", 1, "y", "g", "h"): 16,
    }


def test_a_task_inherits_from_group_line_and_default(write):
    file = write(WHOLE)
    budget = read_budgets(file).of("banking77", date(2027, 2, 1))
    assert (budget.owner, budget.group, budget.line) == ("cards", "support", "cards")
    assert {one.name: (one.value, one.source) for one in budget.limits} == {
        "floors.accuracy": (0.9, f"{file}:20"),
        "single_stream.max_p99_ms": (60.0, f"{file}:21"),
        "max_latency_ms": (20.0, f"{file}:15"),
        "max_joules": (500.0, f"{file}:17"),
        "max_memory_mb": (900.0, f"{file}:2"),
    }
    assert [one.source for one in budget.expired] == [f"{file}:23", f"{file}:31"]
    other = read_budgets(file).of("else")
    assert (other.owner, [one.name for one in other.limits]) == ("platform", ["max_memory_mb"])
    assert not read_budgets(write("")).of("else")


def test_an_exception_widens_or_waives_until_its_last_day(write):
    budgets = read_budgets(write(WHOLE))
    before = budgets.of("banking77", date(2026, 1, 31))
    assert before.limit("max_latency_ms").value == 30
    assert before.limit("max_memory_mb") is None, "waived"
    assert "exception at" in str(before.limit("max_latency_ms"))
    between = budgets.of("banking77", date(2027, 1, 31))
    assert (between.limit("max_latency_ms").value, between.limit("max_memory_mb").value) == (30, 900)
    assert budgets.of("banking77", date(2027, 2, 1)).limit("max_latency_ms").value == 20
    assert budgets.of("support_de", date(2026, 1, 1)).limit("max_latency_ms").value == 20, "of one task alone"


def test_the_narrowest_of_config_and_budget_holds(write):
    file = write("[default]\nmax_latency_ms = 20\nmin_score = 0.8\nmax_cpu_seconds = 5\n")
    budget = read_budgets(file).of("t")
    narrowed = budget.narrowed(Target(max_latency_ms=10, min_score=0.7, max_memory_mb=3))
    assert narrowed.target == Target(max_latency_ms=10, min_score=0.8, max_cpu_seconds=5, max_memory_mb=3)
    assert narrowed.names == {"min_score": f"{file}:3 min_score", "max_cpu_seconds": f"{file}:4 max_cpu_seconds"}
    same = budget.narrowed(narrowed.target)
    assert same.names == {}, "where both are equal, the config's is named"


def test_a_digest_is_of_limits_and_not_of_lines(write):
    first = read_budgets(write("[default]\nmax_latency_ms = 20\n")).of("t").key
    assert first == read_budgets(write("# a comment\n[default]\n\nmax_latency_ms = 20.0\n")).of("t").key
    assert first != read_budgets(write("[default]\nmax_latency_ms = 21\n")).of("t").key
    assert read_budgets(write("")).of("t").key == ""


ENTRY = '[[exception]]\ntask = "t"\nlimit = "max_flops"\nowner = "o"\nreason = "r"\nuntil = 2027-01-01\n'
MISTAKES = {
    "no TOML": ("[default\n", 1, "no TOML"),
    "a table that nobody knows": ("[defualt]\nmax_flops = 1\n", 1, "nearest: default"),
    "a limit that nobody knows": ("[default]\nmax_latency = 1\n", 2, "nearest: max_latency_ms"),
    "a scenario that nobody knows": ("[default]\nmulti.max_p99_ms = 1\n", 2, "no such limit"),
    "a percentile that nobody measures": ("[default]\nsingle_stream.max_p90_ms = 1\n", 2, "single_stream.max_p"),
    "a metric that does not exist": ("[default]\nmax_flops = 1\nfloors.acuracy = 0.9\n", 3, "nearest: accuracy"),
    "no TOML over several lines": ("[default]\nmax_flops = 1\nowner = [\n'a'\n", 3, "no TOML"),
    "a number of too many digits": ("[default]\nmax_flops = " + "1" * 5001 + "\n", 2, "4300 digits"),
    "nested too deep": ("[default]\nmax_flops = " + "[" * 20000, 2, "nested too deep"),
    "a key of many parts": (".".join("a" * 3000) + " = 1", 1, "a: no such table"),
    "a limit of many parts": ("[default]\nfloors.accuracy." + ".".join("a" * 2000) + " = 1", 2, "a number above 0"),
    "a number beyond every float": ("[default]\nmax_flops = 1" + "0" * 400, 2, "expected a number above 0"),
    "more bits than decimal digits": ("[default]\nmax_flops = 0x" + "f" * 5000, 2, "a number of 20000 bits"),
    "zero": ("[default]\nmax_flops = 0\n", 2, "expected a number above 0, got 0;"),
    "infinity": ("[default]\nmax_flops = inf\n", 2, "expected a number above 0, got inf;"),
    "a line after Unicode's line ends": ("# \u2028 \x85\n[default]\nmax_flops = '\u2028'\n", 3, "a number above 0"),
    "no number": ('[default]\nmax_flops = "1"\n', 2, "expected a number above 0"),
    "a negative number": ("[default]\nmax_flops = -1\n", 2, "leave the key out for no limit"),
    "a truth": ("[default]\nmax_flops = true\n", 2, "expected a number above 0"),
    "joules without their quality": ("[default]\nmax_joules = 1\n", 2, "joules_quality"),
    "joules of answers without their quality": (
        "[default]\nanswers.max_joules_per_1000 = 1\n",
        2,
        "answers.max_joules_per_1000: figures of two qualities are never compared",
    ),
    "two qualities": (
        '[default]\njoules_quality="modelled"\n[task.t]\njoules_quality="measured_counter"\n',
        4,
        "contradicts 'modelled' of default",
    ),
    "a quality that nobody knows": ('[default]\njoules_quality = "good"\n', 2, "expected one of"),
    "a wider task": ("[default]\nmax_flops = 1\n[task.t]\nmax_flops = 2\n", 4, "wider than 1 of default"),
    "a lower floor": ("[default]\nmin_score = 0.9\n[task.t]\nmin_score = 0.8\n", 4, "write an [[exception]]"),
    "a wider group": ("[line.l]\ngroups=['g']\nmax_flops=1\n[group.g]\ntasks=['t']\nmax_flops=2\n", 6, "of line l"),
    "a line wider than the default": (
        "[default]\nmax_flops=1\n[line.l]\ngroups=['g']\nmax_flops=2\n[group.g]\ntasks=['t']\n",
        5,
        "of default",
    ),
    "a task wider than what lies two levels above": (
        "[default]\nmax_flops=1\n[group.g]\ntasks=['t']\n[task.t]\nmax_flops=2\n",
        6,
        "wider than 1 of default",
    ),
    "two platforms": ('[default]\nplatform="cpu"\n[task.t]\nplatform="gpu"\n', 4, "contradicts 'cpu' of default"),
    "a group without tasks": ("[group.g]\nmax_flops = 1\n", 1, "tasks is missing"),
    "a line of a group that is not there": ("[line.l]\ngroups = ['g']\n", 2, "there is no [group.g]"),
    "a group in two lines": (
        "[line.l]\ngroups=['g']\n[line.m]\ngroups=['g']\n[group.g]\ntasks=['t']\n",
        4,
        "lies in line l",
    ),
    "a task in two groups": ("[group.g]\ntasks=['t']\n[group.h]\ntasks=['t*']\n[task.t]\n", 0, "a task has one group"),
    "a limit outside of a table": ("max_flops = 1\n", 1, "no such table"),
    "an exception without an owner": (ENTRY.replace('owner = "o"\n', ""), 1, "owner: missing"),
    "an exception without an end": (ENTRY.replace("until = 2027-01-01\n", ""), 1, "until: missing"),
    "an end in quotes": (ENTRY.replace("2027-01-01", '"2027-01-01"'), 6, "without quotes"),
    "an end at an hour": (ENTRY.replace("2027-01-01", "2027-01-01T00:00:00Z"), 6, "expected a day"),
    "two exceptions from one limit": (
        "[default]\nmax_flops = 1\n" + ENTRY + ENTRY + "value = 3\n",
        9,
        "budgets.toml:3 is about max_flops of t too; keep one of them",
    ),
    "an exception for a task that no table names": (
        "[task.u]\nmax_flops = 1\n[task.topics]\n" + ENTRY.replace('"t"', '"topcs"'),
        5,
        "task: no table names 'topcs'; nearest: topics",
    ),
    "a key of an exception that nobody knows": (ENTRY + "untill = 1\n", 7, "nearest: until"),
    "an exception from nothing": (ENTRY, 3, "nothing bounds 'max_flops' of t"),
    "an exception that is no wider": (ENTRY + "value = 1\n[default]\nmax_flops = 2\n", 7, "no wider than 2"),
    "one bracket": (ENTRY.replace("[[exception]]", "[exception]"), 1, "two brackets"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_and_remedy(write, mistake):
    text, line, message = MISTAKES[mistake]
    file = write(text)
    with pytest.raises(InputError) as error:
        read_budgets(file)
    assert message in str(error.value)
    if line:
        assert str(error.value).startswith(f"{file}:{line}: "), error.value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, encoding):
    file = tmp_path / "budgets.toml"
    file.write_bytes("[default]\r\nmax_flops = 2\r\n".encode(encoding))
    assert [(one.value, one.source) for one in read_budgets(file).of("t").limits] == [(2.0, f"{file}:2")]


def test_a_list_of_many_lines_is_read_at_once(write):
    names = "".join(f'"task{number}",\n' for number in range(4000))
    started = time.process_time()
    file = write(f"[group.g]\ntasks = [\n{names}]\nmax_flops = 1\n")
    assert read_budgets(file).of("task3999").limit("max_flops").source == f"{file}:4004"
    assert time.process_time() - started < 3, "each line is read once; all pairs of them took 26 s"


def test_quality_and_platform_come_from_any_level_above(write):
    text = '[default]\njoules_quality = "measured_counter"\nplatform = "gpu"\n[task.t]\nmax_joules = 5\n'
    budget = read_budgets(write(text)).of("t")
    assert (budget.joules_quality, budget.platform) == ("measured_counter", "gpu")
    narrowed = budget.narrowed(Target(max_joules=9))
    assert (narrowed.target.max_joules, narrowed.target.platform) == (5, "gpu")
    assert budget.key != read_budgets(write(text.replace("gpu", "tpu"))).of("t").key, "another platform"
    modelled = read_budgets(write(text.replace("measured_counter", "modelled"))).of("t")
    assert budget.key != modelled.key, "joules of another quality"
    assert modelled.narrowed(Target(max_joules=9)).target.max_joules == 9, "a target's joules are a counter's"


def test_a_waived_floor_is_no_floor(write):
    text = "[default]\nfloors.accuracy = 0.9\nfloors.macro_f1 = 0.8\n" + ENTRY.replace("max_flops", "floors.accuracy")
    budgets = read_budgets(write(text))
    assert list(budgets.of("t", date(2027, 1, 1)).floors()) == ["macro_f1"]
    assert list(budgets.of("t", date(2027, 1, 2)).floors()) == ["accuracy", "macro_f1"]
    assert budgets.of("t", date(2027, 1, 1)).expired == ()


def test_today_is_the_day_in_utc(monkeypatch):
    try:
        with monkeypatch.context() as place:
            place.setenv("TZ", "FAR-24")  # a day ahead of UTC at every hour
            time.tzset()
            before, today, after = datetime.now(UTC).date(), utc_today(), datetime.now(UTC).date()
            assert before <= today <= after
            assert datetime.now().date() > after or before != after
    finally:
        time.tzset()


def test_config_and_budget_on_two_platforms(write):
    budget = read_budgets(write('[default]\nplatform = "cpu"\nmax_flops = 1\n')).of("t")
    assert budget.narrowed(Target()).target.platform == "cpu"
    with pytest.raises(InputError, match="the config says gpu, the budget of t cpu"):
        budget.narrowed(Target(platform="gpu"))


def test_one_rule_finds_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv("TOPGRAFT_BUDGETS", raising=False)
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    assert budget_file("", url) is None
    assert not budgets_for("", url).levels
    (tmp_path / "budgets.toml").write_text("[default]\nmax_flops = 1\n")
    assert budget_file("", url) == tmp_path / "budgets.toml"
    assert budget_file("", "postgresql://localhost/x") is None
    (tmp_path / "budgets.toml").rename(tmp_path / "kept.toml")
    (tmp_path / "budgets.toml").mkdir()
    with pytest.raises(InputError, match="no readable file of budgets"):
        budgets_for("", url)
    (tmp_path / "budgets.toml").rmdir()
    (tmp_path / "budgets.toml").symlink_to(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="no readable file of budgets"):
        budgets_for("", url)
    (tmp_path / "budgets.toml").unlink()
    (tmp_path / "kept.toml").rename(tmp_path / "budgets.toml")
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path))
    assert budget_file("") == tmp_path / "budgets.toml", "beside this machine's registry"
    monkeypatch.setenv("TOPGRAFT_BUDGETS", str(tmp_path / "other.toml"))
    assert budget_file("", url) == tmp_path / "other.toml"
    with pytest.raises(InputError, match=r"other\.toml: no readable file of budgets"):
        budgets_for("", url)
    assert budget_file("named.toml", url) == Path("named.toml")
