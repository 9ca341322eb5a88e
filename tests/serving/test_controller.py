"""The controller: a script of readings against the switches they must give, on a clock that is ours."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from backbone.records import encode
from serving.controller import Bounds, Controller, Reading


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(levels, bounds: Bounds, readings) -> tuple[list[str], Controller]:
    """The submodel after each (seconds passed, reading)."""
    clock = Clock()
    controller, found = Controller(levels, bounds, clock), []
    for passed, reading in readings:
        clock.now += passed
        controller.update(reading)
        found.append(controller.submodel)
    return found, controller


LEVELS = ("full", "exits")


def test_one_level_at_a_time_and_back():
    bounds = Bounds(p95=0.1, dwell=10)
    slow, fast = Reading(p95=0.2), Reading(p95=0.01)
    found, controller = run(LEVELS, bounds, [(10, slow), (10, slow), (10, slow), (10, fast), (10, fast), (10, fast)])
    assert found == ["exits", "exits", "exits", "full", "full", "full"]
    assert [(s.before, s.after) for s in controller.switches] == [("full", "exits"), ("exits", "full")]
    assert controller.count == 2
    assert controller.switches[0].why == "p95 seconds 0.2 above 0.1"
    assert controller.switches[0].at == 1010.0


def test_between_relief_and_bound_nothing_changes():
    """Hysteresis: above 0.7 of the bound it stays where it is, on either level."""
    bounds = Bounds(p95=0.1, dwell=1)
    between = Reading(p95=0.08)
    found, _ = run(
        ("full", "exits"), bounds, [(5, between), (5, Reading(p95=0.11)), (5, between), (5, Reading(p95=0.069))]
    )
    assert found == ["full", "exits", "exits", "full"]


def test_it_dwells():
    slow, fast = Reading(queued=50), Reading(queued=0)
    bounds = Bounds(max_queued=40, dwell=30)
    # from the start as well: the first seconds of a server say nothing
    script = [(29, slow), (1, slow), (29, fast), (0.5, fast), (0.5, fast), (10, slow)]
    found, _ = run(("full", "exits"), bounds, script)
    assert found == ["full", "exits", "exits", "exits", "full", "full"]


def test_any_reading_asks_down_and_all_must_agree_to_go_up():
    bounds = Bounds(p95=0.1, max_queued=100, max_watts=50.0, max_celsius=80.0, dwell=1)
    low = {"p95": 0.01, "queued": 0, "watts": 10.0, "celsius": 40.0}
    for name, high, between in (
        ("p95", 0.2, 0.09),
        ("queued", 101, 90),
        ("watts", 51.0, 40.0),
        ("celsius", 81.0, 76.0),
    ):
        script = [
            (2, Reading(**low | {name: high})),
            (2, Reading(**low | {name: between})),
            (2, Reading(**low)),
        ]
        assert run(("full", "exits"), bounds, script)[0] == ["exits", "exits", "full"], name
    cool = Reading(**low | {"celsius": 75.0})
    assert run(("full", "exits"), bounds, [(2, Reading(celsius=81.0)), (2, cool)])[0] == ["exits", "full"]


def test_what_cannot_be_read_decides_nothing():
    bounds = Bounds(p95=0.1, max_watts=50.0, dwell=1)
    found, _ = run(
        ("full", "exits"), bounds, [(2, Reading()), (2, Reading(p95=0.2)), (2, Reading(queued=10**6)), (2, Reading())]
    )
    assert found == ["full", "exits", "exits", "exits"], "without a reading nothing is well below its bound"


def test_what_is_not_bounded_decides_nothing():
    found, _ = run(
        ("full", "exits"), Bounds(p95=0.1, dwell=1), [(2, Reading(p95=0.05, queued=10**6, watts=1e4, celsius=200.0))]
    )
    assert found == ["full"]


def test_every_switch_is_logged(caplog):
    _, controller = run(("full", "exits"), Bounds(p95=0.1, dwell=1), [(2, Reading(p95=0.2)), (2, Reading(p95=0.2))])
    assert caplog.messages == ["submodel: full to exits: p95 seconds 0.2 above 0.1"]
    assert encode(controller.switches[0]) == {
        "at": 1002.0, "before": "full", "after": "exits", "why": "p95 seconds 0.2 above 0.1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "bounds", "told"),
    [
        (("full", "int4"), {"p95": 1.0}, "'int4' is none of full, exits, pruned"),
        (("full", "full"), {"p95": 1.0}, "each once"),
        ((), {}, "at least one"),
        (("full", "exits"), {}, "what decides"),
        (("full",), {"max_queued": 3}, "a cheaper one"),
    ],
)
def test_what_it_refuses(levels, bounds, told):
    with pytest.raises(InputError, match=told):
        Controller(levels, Bounds(**bounds))


def test_bounds_are_positive():
    for wrong in ({"p95": 0.0}, {"max_queued": -1}, {"dwell": float("nan")}):
        with pytest.raises(InputError, match=r"--(p95|max-queued|dwell): must be a"):
            Bounds(**wrong)
    assert Controller(("exits",), Bounds()).submodel == "exits", "one that is always used needs no bound"
