"""The simulated queue against formulas, and the two rules of autoscaling at instants of which the answer is plain."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.autoscaling import (
    MINUTE,
    STEP,
    Outcome,
    Replicas,
    Seen,
    Service,
    arrivals,
    by_cpu,
    by_latency,
    compared,
    simulate,
    times_of,
)

RULE = Path(__file__).resolve().parents[2] / "docs" / "deploy" / "replicas.yaml"


def poisson(rate: float, minutes: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    for minute in range(minutes):
        yield np.sort(60.0 * minute + draw.uniform(0, 60, draw.poisson(60 * rate))).tolist()


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_without_batches_waits_as_pollaczek_and_khinchine_say(load):
    """M/D/1: the mean wait is load x service / (2 (1 - load))."""
    service = Service.line(0.0, 0.05, batch=1)
    day = simulate(poisson(load / 0.05, 400), service, lambda seen: 1)
    assert day.mean_wait_ms == pytest.approx(1e3 * load * 0.05 / (2 * (1 - load)), rel=0.05)
    assert day.replica_hours == pytest.approx(400 / 60)
    assert day.busy_hours == pytest.approx(load * 400 / 60, rel=0.02)
    assert (day.starts, day.rows_a_batch) == (0, 1.0)


def test_two_replicas_share_one_queue():
    """M/D/2 by Cosmetatos (1976): half the wait of M/M/2, which is Erlang's C, and a little more."""
    service, load = Service.line(0.0, 0.05, batch=1), 0.6
    day = simulate(poisson(2 * load / 0.05, 400), service, lambda seen: 2, start_seconds=0.0)
    erlang = 2 * load**2 / (1 + load)  # the probability of waiting with two servers
    more = 1 + (1 - load) * (14**0.5 - 2) / (16 * load * 2)
    assert day.mean_wait_ms == pytest.approx(1e3 * erlang * 0.05 / (2 * (1 - load)) / 2 * more, rel=0.1)


def test_batches_grow_with_the_load_up_to_their_limit():
    service = Service.line(0.01, 0.01, batch=4)
    days = [simulate(poisson(rate, 60), service, lambda seen: 1) for rate in (1.0, 40.0, 70.0)]
    assert days[0].rows_a_batch == pytest.approx(1.0, abs=0.02)
    assert [day.rows_a_batch for day in days] == sorted(day.rows_a_batch for day in days)
    replicas = Replicas(service, 1)
    waits, latencies = replicas.live([0.0] * 6, 10.0)
    assert waits.tolist() == pytest.approx([0.0] * 4 + [0.05] * 2)
    assert latencies.tolist() == pytest.approx([0.05] * 4 + [0.08] * 2)


def test_a_batch_that_runs_over_a_decision_goes_on():
    replicas = Replicas(Service.line(0.0, 10.0, batch=1), 1)
    assert len(replicas.live([1.0, 2.0], 15.0)[0]) == 2, "the second begins at 11"
    assert len(replicas.live([16.0], 20.0)[0]) == 0, "the replica is busy until 21"
    waits, _ = replicas.live([], 30.0)
    assert waits.tolist() == [5.0]


def test_a_replica_that_starts_answers_later_and_one_that_ends_finishes():
    replicas = Replicas(Service.line(0.0, 20.0, batch=1), 1)
    assert replicas.resize(2, 0.0, 30.0) == (1, 0.0)
    replicas.live([0.0, 1.0], 15.0)
    assert (replicas.count, len(replicas.free)) == (2, 1)
    replicas.live([], 30.0)
    assert len(replicas.free) == 2
    started, still = replicas.resize(1, 30.0, 30.0)
    assert (started, still, replicas.count) == (0, 0.0, 1), "the idle one"


def test_kubernetes_rule():
    """ceil(present x busy / target), within a tenth nothing, and the largest of five minutes."""
    rule = by_cpu(0.5)
    assert rule(Seen(4, 0.54, 0, 0)) == 4
    assert rule(Seen(4, 0.8, 0, 0)) == 7
    assert [rule(Seen(7, 0.1, 0, 0)) for _ in range(19)] == [7] * 19
    assert rule(Seen(7, 0.1, 0, 0)) == 2


def test_the_rule_by_latency_follows_what_arrives_and_what_waits():
    rule = by_latency(1.0, 10.0)
    assert rule(Seen(1, 0, 90.0, 0)) == 15, "9 + 9 / 3 + sqrt(9)"
    assert rule(Seen(1, 0, 90.0, 300)) == 17, "300 rows more within 15 seconds"
    calm = Seen(1, 0, 10.0, 0)
    assert [rule(calm) for _ in range(3)] == [17] * 3, "the largest number of a minute"
    assert rule(calm) == 15, "of the last look with the former rate"
    assert rule(calm) == 3, "1 + 1 / 3 + sqrt(1)"


def test_rows_that_wait_are_rows_that_arrived():
    """A replica that is behind answers 10 rows a second, while 20 arrive and the queue grows."""
    seen = []

    def rule(now: Seen) -> int:
        seen.append(now)
        return 1

    simulate(poisson(20.0, 2), Service.line(0.0, 0.1, batch=1), rule)
    assert [one.rate for one in seen[1:]] == pytest.approx([20.0] * 7, rel=0.2)
    assert [one.queued for one in seen] == pytest.approx([150 * (i + 1) for i in range(8)], rel=0.25)
    assert all(one.busy == pytest.approx(1.0, abs=0.02) for one in seen)


def test_the_published_rule_is_the_simulated_one():
    """Evaluates docs/deploy/replicas.yaml with numbers in place of metrics, beside the simulated rule."""
    (group,) = yaml.safe_load(RULE.read_text())["groups"]
    assert group["interval"] == f"{STEP}s"
    arriving, load, wanted, replicas = (rule["expr"] for rule in group["rules"])
    assert arriving == "sum(rate(topgraft_rows_total[30s])) + sum(deriv(topgraft_queue_rows[30s]))"
    assert replicas == "max_over_time(topgraft:wanted[1m])"
    assert MINUTE * STEP == 60
    for rate, queued in ((0.0, 0), (55.0, 0), (730.0, 40), (730.0, 9000)):
        numbers = {"max_over_time(topgraft:arrivals[30s])": rate, "sum(topgraft_queue_rows)": queued}
        names = {"ceil": math.ceil, "sqrt": math.sqrt}
        of_load = eval(replaced(load, numbers))
        now = eval(replaced(wanted, numbers | {"topgraft:load": of_load}), names)
        assert now == by_latency(0.3, 100.0)(Seen(1, 0.0, rate, queued))


def replaced(text: str, numbers: dict[str, float]) -> str:
    for name, value in numbers.items():
        text = text.replace(name, f"({value})")
    return text


def test_arrivals_are_the_scaled_tweets():
    tweets = np.zeros(1440, int)
    tweets[600:660] = 2
    times = times_of(tweets, 10.0, 3.0)
    assert times == pytest.approx(3 * 10 * 3600 / 120)
    minutes = list(arrivals(tweets, times, 0))
    count = sum(map(len, minutes))
    assert count == pytest.approx(120 * times, rel=0.01)
    assert minutes[600] == sorted(minutes[600])
    assert not minutes[590]
    assert all(36000 <= at < 36060 for at in minutes[600])
    assert list(map(len, arrivals(tweets, times, 0, smooth=1)))[599] == 0


def test_the_least_energy_that_keeps_the_bound():
    cpu = {0.5: Outcome(50.0, 20, 10, 0, 0, 1), 0.9: Outcome(150.0, 12, 9, 0, 0, 1)}
    latency = {0.5: Outcome(90.0, 12, 8, 0, 0, 1), 1.0: Outcome(60.0, 14, 8, 0, 0, 1)}
    figures = compared(cpu, latency, 100.0)["0.5"]
    assert figures["cpu"] == {"busy_hours": 15.0, "parameter": 0.5}, "the cheaper one breaks the bound"
    assert figures["latency"] == {"busy_hours": 10.0, "parameter": 0.5}
    assert figures["ratio"] == pytest.approx(10 / 15)
    assert compared(cpu, latency, 55.0)["0.5"]["ratio"] is None
    ratios = [compared(cpu, latency, 100.0)[share]["ratio"] for share in ("0.2", "0.7")]
    assert all(a > b for a, b in itertools.pairwise(ratios)), "idle replicas are what is saved"


def test_a_measured_service_goes_in_lines_between_its_sizes_and_never_falls():
    service = Service.measured({1: 0.010, 2: 0.014, 4: 0.010, 8: 0.040})
    assert service.batch == 8
    np.testing.assert_allclose(service.seconds, [0.01, 0.01, 0.014, 0.014, 0.014, 0.0175, 0.025, 0.0325, 0.04])
    assert service.rate == pytest.approx(200.0)
