"""The number of threads of NumPy's and SciPy's products."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import Classification
from metering.one_thread import CHOSEN, libraries, one_thread
from trainers.fitting import head_comparison
from trainers.fitting.head_comparison import fitted_to_all, labelled_states, on_last
from trainers.fitting.linear_head import fit_linear


def counts():
    return [count() for count, _ in libraries()]


@pytest.fixture
def two(monkeypatch):
    """A process that chose no number, and has two threads."""
    monkeypatch.delenv(CHOSEN)
    before = counts()
    for _, choose in libraries():
        choose(2)
    yield
    for (_, choose), count in zip(libraries(), before, strict=True):
        choose(count)


def test_products_have_one_thread_inside_and_theirs_again_outside(two):
    assert counts() == [2, 2], "NumPy's and SciPy's"
    entered, leave = threading.Event(), threading.Event()

    def inside():
        with one_thread():
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=inside)
    with one_thread():
        other.start()
        assert entered.wait(60)
        assert counts() == [1, 1]
    assert counts() == [1, 1], "the other thread is still inside"
    leave.set()
    other.join()
    assert counts() == [2, 2]
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert counts() == [2, 2]


def test_whoever_chose_a_number_keeps_it(two, monkeypatch):
    monkeypatch.setenv(CHOSEN, "2")
    with one_thread():
        assert counts() == [2, 2]


def test_heads_are_fitted_on_one_thread(two, tiny, monkeypatch):
    seen, scatter_of = [], head_comparison.scatter_of
    monkeypatch.setattr(head_comparison, "scatter_of", lambda *rest: seen.append(counts()) or scatter_of(*rest))
    draw = np.random.default_rng(0)
    pooled = draw.normal(size=(12, tiny.spec.blocks + 1, tiny.spec.width)).astype(np.float32)
    labels = np.arange(12, dtype=np.int32) % 2
    model = GraftModel(tiny.network, (), Classification(), ("a", "b"))
    rows = labelled_states((pooled, None), (labels, None), [bytes([n]) for n in range(12)], shared=False)
    comparison = on_last(model, rows)
    compared = len(seen)
    fitted_to_all(comparison.options[0], comparison.factors[0], model, rows)
    assert len(seen) > compared > 0
    assert set(map(tuple, seen)) == {(1, 1)}
    minimised = []
    monkeypatch.setattr(
        "trainers.fitting.linear_head._minimise", lambda head, params, *rest: minimised.append(counts()) or params
    )
    fit_linear(model, pooled[:, -1], labels, None, "accuracy", (1.0,))
    assert minimised == [[1, 1]]
    assert counts() == [2, 2]
