"""The figures of a version, from recorded measurements, a gate's checks, scores and the manifest."""

from __future__ import annotations

import pytest

from registry.budgets.budget import Budget, BudgetLimit
from registry.budgets.figures import figures_of
from registry.budgets.judge import NoFigure, judged, require_within
from registry.budgets.limits import limit_of
from registry.budgets.read import read_budgets
from registry.entries import Measurement, Version
from tests.grafts import EMPTY, make
from tests.registry.budgets.test_promote import COST

SCORES = {"dev": {"accuracy": 0.9}, "test": {"accuracy": 0.7}}
UNCOUNTED = {**COST, "flops": None, "bytes_moved": None}


def version(**lineage: object) -> Version:
    return Version("t", 1, "id", "id", "path", None, 0.0, SCORES, lineage, "published")


@pytest.fixture
def manifest(tiny, tmp_path):
    def written(costs, config=None):
        values = {**vars(EMPTY), "costs": costs, "config": config or {}, "metrics": SCORES}
        return make(tmp_path / f"graft{len(list(tmp_path.iterdir()))}", tiny, training=type(EMPTY)(**values))[0]

    return written


COUNTS = [
    ({"fill": COST, "steps": {**COST, "flops": 30.0, "bytes_moved": 7.0}}, 40.0, 11.0),
    ({"load": UNCOUNTED, "data": UNCOUNTED, "steps": COST}, 10.0, 4.0),
    ({"probe": UNCOUNTED, "out_of_scope": UNCOUNTED, "evaluate": COST}, 10.0, 4.0),
    ({"fill": COST, "steps": UNCOUNTED}, None, None),
    ({"fill": COST, "steps": {**COST, "bytes_moved": None}}, 20.0, None),
    ({"load": UNCOUNTED}, None, None),
]


@pytest.mark.parametrize(("costs", "flops", "moved"), COUNTS)
def test_operations_are_those_of_all_phases_that_compute(manifest, costs, flops, moved):
    figures = figures_of(version(), (), manifest(costs))
    assert (figures["max_flops"].value, figures["max_bytes"].value) == (flops, moved)
    assert figures["max_cpu_seconds"].value == 2.5 * len(costs)


def test_a_training_with_an_uncounted_phase_has_no_evidence(manifest):
    budget = Budget("t", limits=(BudgetLimit("max_flops", 1000.0, "team.toml:2"),))
    with pytest.raises(NoFigure, match="nobody counted the phases steps of the training"):
        require_within(budget, 1, figures_of(version(), (), manifest({"fill": COST, "steps": UNCOUNTED})))
    assert "max_flops" not in figures_of(version(), (), manifest({}))


def test_a_recorded_measurement_comes_before_the_manifest_and_the_last_one_counts(manifest):
    def measured(value: float) -> Measurement:
        return Measurement("t", 1, "retraining, CPU seconds", value, "measured_counter", {}, 0.0)

    figures = figures_of(version(), [measured(7.0), measured(8.0)], manifest({"train": COST}))
    assert figures["max_cpu_seconds"].value == 8.0


def test_scores_are_those_of_dev_before_those_of_test(manifest):
    figures = figures_of(version())
    assert figures["floors.accuracy"].value == 0.9
    assert "min_score" not in figures
    assert figures_of(version(metric="accuracy"))["min_score"].value == 0.9
    assert figures_of(version(), (), manifest({}, {"metric": "accuracy"}))["min_score"].value == 0.9


def test_the_gate_measured_what_its_checks_name():
    names = (
        "target.max_latency_ms",
        "team.toml:3 max_memory_mb",
        "team.toml:4 single_stream.max_p99_ms, exception at team.toml:9 until 2030-01-01",
        "team.toml:5 max_flops",
        "target.min_score and more",
    )
    checks = [{"name": name, "found": number} for number, name in enumerate(names, 1)]
    figures = figures_of(version(gate={"checks": checks, "candidate": {"accuracy": 0.8}}))
    assert {name: one.value for name, one in figures.items()} == {
        "floors.accuracy": 0.8,
        "max_latency_ms": 1.0,
        "max_memory_mb": 2.0,
        "single_stream.max_p99_ms": 3.0,
    }
    assert [limit_of(name) for name in ("max_flops", "probe", "target.min_score")] == ["", "", "min_score"]


FILE = """\
[default]
max_joules = 1
joules_quality = "measured_counter"
max_cpu_seconds = 9

[[exception]]
task = "t"
limit = "max_joules"
owner = "o"
reason = "r"
until = 2030-01-01

[[exception]]
task = "t"
limit = "max_cpu_seconds"
owner = "o"
reason = "r"
until = 2020-01-01
"""


def test_a_waived_limit_on_joules_is_listed_and_an_exception_that_ended_blocks_nothing(manifest, tmp_path):
    (tmp_path / "team.toml").write_text(FILE)
    budget = read_budgets(tmp_path / "team.toml").of("t")
    figures = figures_of(version(), (), manifest({"train": COST}))
    verdicts = {one.limit: one.verdict for one in judged(budget, 1, figures)}
    assert verdicts == {"max_joules": "EXCEPTED", "max_cpu_seconds": "PASS"}
    assert len(budget.expired) == 1
    require_within(budget, 1, figures)
