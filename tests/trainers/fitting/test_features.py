"""Logits of graft and gate: from cached states where the graft reads these, and never from a cache that is wrong."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, Probe
from backbone.trees import map_leaves
from metering.window import window
from tests.grafts import nonzero
from tests.home import linked
from trainers.config import Plan
from trainers.fitting.features import logits_of_rows, open_cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without cached states."""
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path))
    linked(tmp_path)


def graft_of(task, *methods, head=None) -> Graft:
    model = GraftModel(task.backbone.network, methods, head or Classification(), ("a", "b", "c"))
    return Graft(model, nonzero(model), task.backbone, 32)


def flops(plan: Plan, graft: Graft, rows) -> tuple[np.ndarray, float]:
    with window("test") as cost:
        logits = logits_of_rows(plan, graft, rows)
    return logits, cost.flops or 0.0


@pytest.mark.parametrize("probe", [Probe(), Probe(boundaries=(1, -1))], ids=["last", "two"])
def test_a_probe_is_scored_on_cached_states_and_a_few_computed_rows(probe, task, home):
    graft, plan = graft_of(task, probe), Plan()
    expected = graft.logits_of_rows(task.train.rows)
    _, first = flops(plan, graft, task.train)
    logits, again = flops(plan, graft, task.train)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert 0 < again < first / 3, "eight rows run through the network, whatever the cache holds"
    other = replace(graft, params=nonzero(graft.model, seed=1))
    logits, shared = flops(plan, other, task.train)
    assert shared == again, "another graft reads the same states"
    np.testing.assert_allclose(logits, other.logits_of_rows(task.train.rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("methods", "head"),
    [
        ((Lora(),), Classification()),
        ((Probe(),), Classification(pooling="attention")),
    ],
    ids=["adapted", "learnt pooling"],
)
def test_other_grafts_run_whole(methods, head, task, home):
    """Their features are no pooled states of the bare backbone."""
    graft = graft_of(task, *methods, head=head)
    np.testing.assert_array_equal(logits_of_rows(Plan(), graft, task.train), graft.logits_of_rows(task.train.rows))


def test_what_is_live_is_asked_again_at_the_price_of_a_few_rows(task, home):
    """States under an adapter are kept for a caller that comes back, under that adapter alone."""
    graft, plan = graft_of(task, Lora(rank=2)), Plan()
    expected = graft.logits_of_rows(task.train.rows)

    def asked_of(one: Graft) -> tuple[np.ndarray, float]:
        with window("test") as cost:
            logits = logits_of_rows(plan, one, task.train, again=True)
        return logits, cost.flops or 0.0

    _, first = asked_of(graft)
    logits, second = asked_of(graft)
    assert 0 < second < first / 3
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    other = replace(graft, params=nonzero(graft.model, seed=1))
    logits, third = asked_of(other)
    assert third == first, "another adapter has other states"
    np.testing.assert_allclose(logits, other.logits_of_rows(task.train.rows), rtol=1e-4, atol=1e-4)


def test_without_a_cache_every_row_is_computed(task, home):
    graft = graft_of(task, Probe())
    logits = logits_of_rows(Plan(cache="none"), graft, task.train)
    np.testing.assert_array_equal(logits, graft.logits_of_rows(task.train.rows))


def test_a_cache_that_gives_other_logits_is_not_used(task, home, caplog):
    """States of other weights under the same name, as a fault of a compiler or a disk would leave them."""
    graft, plan = graft_of(task, Probe()), Plan()
    wrong = replace(task.backbone, params=map_leaves(lambda leaf: 1.1 * leaf, task.backbone.params))
    store = open_cache(plan, graft.model, wrong, {})
    store.fill([task.train], (), pooled=True)
    with caplog.at_level(logging.WARNING):
        logits = logits_of_rows(plan, graft, task.train)
    assert "other logits than the network" in caplog.text
    np.testing.assert_array_equal(logits, graft.logits_of_rows(task.train.rows))
