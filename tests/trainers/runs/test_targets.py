"""Every limit of a target stands beside its figure, or beside the reason why there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from adapters.target import Target
from backbone.errors import InputError
from metering.energy import Joules
from registry.budgets.budget import BudgetLimit, Exemption
from trainers.runs.targets import Limit, costs_of_predicting, costs_of_training

COUNTED = Joules("measured_counter", 60.0, source="rapl")
MODELLED = Joules("modelled", 60.0)


@pytest.mark.parametrize(
    ("target", "joules", "expected"),
    [
        (Target(max_cpu_seconds=5), MODELLED, [("target.max_cpu_seconds", False)]),
        (Target(max_joules=50), COUNTED, [("target.max_joules", False)]),
        (Target(max_joules=50), MODELLED, [("target.max_joules", None)]),
        (Target(max_joules=50, max_cpu_seconds=20), MODELLED, [("target.max_cpu_seconds", True)]),
        (
            Target(max_joules=50, max_cpu_seconds=5),
            COUNTED,
            [("target.max_cpu_seconds", False), ("target.max_joules", False)],
        ),
        (Target(), COUNTED, []),
    ],
    ids=["cpu", "joules counted", "joules modelled", "joules by cpu", "both", "none"],
)
def test_the_costs_of_a_training(target, joules, expected):
    assert [(limit.name, limit.met) for limit in costs_of_training(target, 10.0, joules)] == expected


def test_the_costs_of_a_prediction_hold_on_the_platform_of_the_target():
    target = Target(max_memory_mb=100, max_latency_ms=5, platform="gpu")
    here = list(costs_of_predicting(target, 50_000_000, lambda: 6.0, "gpu"))
    assert [(limit.value, limit.met) for limit in here] == [(50.0, True), (6.0, False)]
    for limit in costs_of_predicting(target, 50_000_000, lambda: 1 / 0, "cpu"):
        assert limit.met is None
        assert "target.platform is gpu, this is cpu" in str(limit)


def test_a_score_is_a_limit_from_below_and_a_cost_from_above():
    assert Limit("target.max_joules", 50.0, 50.0, "").met is True
    assert Limit("target.max_joules", 50.1, 50.0, "").met is False
    assert Limit("target.min_score", 0.8, 0.9, "").met is False
    assert Limit("target.min_score", 0.9, 0.9, "").met is True


@pytest.mark.parametrize("name", ["min_score", "floors.accuracy"])
def test_a_floor_of_a_file_of_budgets_is_a_limit_from_below(name):
    limit = BudgetLimit(name, 0.9, "team.toml:2")
    exemption = Exemption("t", name, 0.9, "o", "r", date(2030, 1, 1), "team.toml:5")
    for one in (limit, replace(limit, exemption=exemption)):
        shown = Limit(str(one), 0.95, 0.9, "")
        assert (shown.met, "at least 0.9 asked" in str(shown)) == (True, True)
        assert Limit(str(one), 0.8, 0.9, "").met is False
    cost = Limit(str(BudgetLimit("max_latency_ms", 5.0, "team.toml:2")), 6.0, 5.0, "")
    assert (cost.met, "at most 5 asked" in str(cost)) == (False, True)


@pytest.mark.parametrize("fields", [{"max_joules": -1}, {"min_score": float("nan")}, {"max_latency_ms": float("inf")}])
def test_a_limit_is_a_number(fields):
    with pytest.raises(InputError, match=f"{next(iter(fields))}: must be a number that is at least 0"):
        Target(**fields)
