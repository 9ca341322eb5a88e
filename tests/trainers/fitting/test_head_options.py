"""Linear heads that are compared on rows they have not seen: formulas, who sees what, and which option wins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from adapters.model import GraftModel
from adapters.specs import Classification, MultiLabel, Probe, Regression
from trainers.fitting import head_comparison
from trainers.fitting.discriminant import discriminant, scatter_of
from trainers.fitting.head_comparison import (
    LabelledStates,
    Part,
    best_of,
    compared,
    fitted_to_all,
    folds,
    labelled_states,
    on_last,
    on_several,
    rounded_up,
    temperature,
)
from trainers.fitting.head_options import LAST, HeadOption, LinearHead, average_on, evidence, options_on, several_states
from trainers.fitting.label_names import Names
from trainers.fitting.linear_head import _weighted_objective
from trainers.fitting.prospect import Prospect, expected_gain, visible

NAMES = ("a", "b", "c")
WIDTH, BOUNDARIES = 32, 4  # of the tiny backbone


def problem(tiny, *, rows=60, at=3, noise=1.0, seed=0, head=None):
    """Rows whose class shows in the pooled state at boundary `at` alone."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(rows) % 3).astype(np.int32)
    pooled = draw.normal(size=(rows, BOUNDARIES, WIDTH)).astype(np.float32)
    pooled[:, at, :3] += (4 / noise) * np.eye(3, dtype=np.float32)[labels]
    model = GraftModel(tiny.network, (Probe(),), head or Classification(), NAMES)
    return model, pooled, labels


def keys(count):
    return [str(i).encode() for i in range(count)]


def alone(*fields, **named):
    return HeadOption((LinearHead(*fields, **named),))


def fitted(head, model, rows):
    return fitted_to_all(HeadOption((head,)), (1.0,), model, rows)


def all_rows(pooled, labels):
    return labelled_states((pooled, None), (labels, None), keys(len(labels)), shared=False)


@pytest.mark.parametrize("rows", [20, 200])
def test_the_discriminant_is_that_of_scikit_learn(rows):
    """With its own shrinkage the covariance is scikit-learn's, but for N - C in place of N."""
    draw = np.random.default_rng(1)
    labels = np.arange(rows) % 3
    x = (draw.normal(size=(rows, 30)) + 2 * np.eye(3, 30)[labels]).astype(np.float32)
    within = x - np.stack([x[labels == c].mean(0) for c in range(3)])[labels]
    covariance = 0.7 * within.T @ within / (rows - 3)
    covariance += 0.3 * np.trace(within.T @ within) / (rows - 3) / 30 * np.eye(30)

    class Given:
        def fit(self, x):
            self.covariance_ = covariance

    other = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Given(), priors=np.bincount(labels) / rows)
    other.fit(x, labels)
    params = discriminant(scatter_of(x, labels, 3), 0.3)
    logits = x @ params["kernel"] + params["bias"]
    wanted = other.decision_function(x)
    assert logits - logits[:, :1] == pytest.approx(wanted - wanted[:, :1], abs=1e-3)


def test_a_class_without_rows_never_wins_and_one_row_a_class_is_enough():
    x = np.eye(3, 5, dtype=np.float32)
    params = discriminant(scatter_of(x, np.array([0, 1, 3]), 4), 0.3)
    logits = x @ params["kernel"] + params["bias"]
    assert logits.argmax(1).tolist() == [0, 1, 3], "the nearest row decides"
    assert logits[:, 2].max() < -1e6


def test_few_rows_in_their_own_directions_give_the_same_head(tiny):
    """A basis of the rows changes neither kind of head: against scikit-learn, and against the features themselves."""
    model, pooled, labels = problem(tiny, rows=30)
    rows = all_rows(pooled, labels)
    x = pooled / np.linalg.norm(pooled, axis=2, keepdims=True) / 2
    x = x.reshape(30, -1)
    every = Probe(boundaries=(), unit=True)
    params = fitted(LinearHead(every, None, 10.0), model, rows)
    other = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(x, labels)
    assert x @ params["kernel"] + params["bias"] == pytest.approx(other.decision_function(x), abs=0.05)
    params = fitted(LinearHead(every, 0.3), model, rows)
    direct = discriminant(scatter_of(x, labels, 3), 0.3)
    assert params["kernel"] == pytest.approx(direct["kernel"], rel=1e-2, abs=1e-2)


def test_some_new_rows_mean_no_new_program(tiny):
    """Neither where the rows have directions of their own, 30 of 128, nor where they have not."""
    for counts in ((26, 30, 32), (210, 217, 224)):
        programs = set()
        for count in counts:
            model, pooled, labels = problem(tiny, rows=count)
            for strength in (1.0, 10.0):
                fitted(LinearHead(Probe(boundaries=(), unit=True), None, strength), model, all_rows(pooled, labels))
                programs.add(_weighted_objective._cache_size())
        assert len(programs) == 1, counts
    for count in range(1, 3000):
        assert count <= rounded_up(count) <= max(count + 7, 1.125 * count)


def test_a_regression_is_ridge(tiny):
    draw = np.random.default_rng(0)
    pooled = draw.normal(size=(80, BOUNDARIES, WIDTH)).astype(np.float32)
    x = pooled[:, -1] / np.linalg.norm(pooled[:, -1], axis=1, keepdims=True)
    labels = (x @ draw.normal(size=WIDTH)).astype(np.float32)
    model = GraftModel(tiny.network, (Probe(),), Regression(center=0.0, spread=1.0), ("value",))
    params = fitted(LinearHead(LAST, None, 10.0), model, all_rows(pooled, labels))
    other = Ridge(alpha=1 / 20).fit(x, labels)
    assert (x @ params["kernel"] + params["bias"])[:, 0] == pytest.approx(other.predict(x), abs=0.02)


def test_every_label_is_in_each_fold_and_copies_share_one():
    labels = np.repeat([0, 1, 2], [10, 10, 1])
    fold = folds(labels, keys(21))
    assert [np.bincount(fold[labels == c], minlength=5).tolist() for c in (0, 1)] == [[2] * 5, [2] * 5]
    same = folds(labels, [str(i // 2).encode() for i in range(21)])
    assert (same[:20:2] == same[1:20:2]).all()


def test_no_head_has_seen_the_rows_that_it_is_scored_on(tiny):
    """Labels are random and each row is a direction of its own, so that only a head that saw a row knows its label."""
    labels = np.random.default_rng(0).integers(0, 3, 30).astype(np.int32)
    pooled = np.zeros((60, BOUNDARIES, WIDTH), np.float32)
    pooled[np.arange(60), :, np.arange(60) % 30] = 1
    labels = np.concatenate([labels, labels])
    model = GraftModel(tiny.network, (Probe(),), Classification(), NAMES)
    options = (alone(LAST, 0.03), alone(LAST, None, 100.0))

    def right(keys_of_rows):
        rows = labelled_states((pooled, None), (labels, None), keys_of_rows, shared=False)
        assert rows.scored.all()
        return [(logits.argmax(1) == labels).mean() for logits in compared(options, model, rows).logits]

    assert max(right([str(i % 30).encode() for i in range(60)])) < 0.6
    apart = [str(i).encode() for i in range(60)]
    apart = apart[30:] + apart[:30]
    assert min(right(apart)) > 0.6, "a copy in another fold gives the label away"


def test_who_is_fitted_and_who_is_scored():
    train, dev = np.zeros((40, 1, 2), np.float32), np.zeros((10, 1, 2), np.float32)
    labels = (np.arange(40) % 2, np.arange(10) % 2)
    shared = labelled_states((train, dev), labels, keys(50), shared=True)
    assert (shared.how, len(shared.parts), shared.final.sum()) == ("out of fold", 5, 50)
    assert shared.scored.all()
    own = labelled_states((train, dev), labels, keys(50), shared=False)
    assert own.final.sum() == 40
    assert own.parts[-1].scored.tolist() == own.is_dev.tolist()
    assert not any((part.fitted & own.is_dev).any() for part in own.parts)


def test_many_rows_are_compared_on_those_held_out_and_then_fitted_to_all(monkeypatch):
    monkeypatch.setattr(head_comparison, "FEW", 30)
    train, dev = np.zeros((40, 1, 2), np.float32), np.zeros((10, 1, 2), np.float32)
    rows = labelled_states((train, dev), (np.arange(40) % 2, np.arange(10) % 2), keys(50), shared=True)
    assert (rows.how, len(rows.parts), rows.final.sum()) == ("held out", 1, 50)
    assert rows.scored.tolist() == rows.is_dev.tolist()
    alone = labelled_states((train, None), (np.arange(40) % 2, None), keys(40), shared=False)
    assert (alone.how, alone.final.sum(), alone.scored.sum()) == ("held out", 40, 4)


@pytest.mark.parametrize(("at", "boundaries"), [(0, ()), (2, (2, 3)), (3, (-1,))])
def test_the_option_that_reads_the_right_state_wins(at, boundaries, tiny):
    model, pooled, labels = problem(tiny, rows=240, at=at, noise=1.6)
    if at == 3:  # what else is read must not help: the same noise at every boundary, many times as loud
        pooled[:, :3] = 0
        pooled[:, :3, 5] = np.random.default_rng(3).normal(size=(240, 3))
    options = options_on((*several_states(tiny.spec), LAST), model.head)
    comparison = compared(options, model, all_rows(pooled, labels))
    assert comparison.options[comparison.best].probe.boundaries == boundaries


def test_the_final_head_is_fitted_to_all_rows_at_its_temperature(tiny):
    model, pooled, labels = problem(tiny, rows=60, noise=3.0)
    rows = all_rows(pooled, labels)
    comparison = compared((alone(LAST, 0.3),), model, rows)
    params = fitted_to_all(alone(LAST, 0.3), comparison.factors[0], model, rows)
    x = pooled[:, -1] / np.linalg.norm(pooled[:, -1], axis=1, keepdims=True)
    direct = discriminant(scatter_of(x, labels, 3), 0.3)
    assert params["kernel"] == pytest.approx(comparison.factors[0][0] * direct["kernel"], rel=1e-2, abs=1e-2)
    loss = model.head.host_loss(comparison.logits[0], labels).mean()
    for other in (0.5, 2.0):
        assert loss < model.head.host_loss(other * comparison.logits[0], labels).mean()
    assert temperature(Regression(), comparison.logits[0], labels) == 1.0


def test_the_first_option_stays_unless_another_is_clearly_better():
    draw = np.random.default_rng(0)
    first = draw.normal(1.0, 0.3, 200)
    chance = np.stack([first, first - 0.01 + draw.normal(0, 0.3, 200)])
    assert best_of(chance) == 0
    assert best_of(np.stack([first, first - 0.1, first - 0.2])) == 2
    assert best_of(np.zeros((3, 0))) == 0


def test_a_label_of_one_row_is_no_error_and_says_nothing_of_the_options(tiny):
    model, pooled, labels = problem(tiny, rows=30)
    labels = np.where(labels == 2, 0, labels).astype(np.int32)
    labels[7] = 2
    comparison = compared(options_on((LAST,), model.head), model, all_rows(pooled, labels))
    assert comparison.losses.shape[1] == 29
    assert np.isfinite(comparison.losses).all()
    assert np.abs(comparison.logits[0]).max() < 1e3
    params = fitted_to_all(comparison.options[0], (1.0,), model, all_rows(pooled, labels))
    assert np.isfinite(params["kernel"]).all()


def test_several_labels_a_row_are_fitted_by_their_loss(tiny):
    model, pooled, labels = problem(tiny, rows=60, head=MultiLabel())
    hot = np.eye(3, dtype=np.float32)[labels]
    options = options_on((LAST,), model.head)
    assert all(option.heads[0].shrinkage is None for option in options)
    assert average_on((LAST,), model.head, True) == options, "no discriminant, so nothing reads names"
    comparison = compared(options, model, all_rows(pooled, hot))
    assert ((comparison.logits[comparison.best] > 0) == hot).mean() > 0.8


def test_rows_of_a_part_decide_alone(tiny):
    """What is fitted to a part is the same whatever the other rows hold."""
    model, pooled, labels = problem(tiny, rows=30)
    fitted = np.arange(30) < 20
    one = LabelledStates(pooled, labels, fitted, ~fitted, (Part(fitted, ~fitted),), "held out")
    changed = labels.copy()
    changed[20:] = (changed[20:] + 1) % 3
    other = LabelledStates(pooled, changed, fitted, ~fitted, (Part(fitted, ~fitted),), "held out")
    for option in options_on((LAST,), model.head):
        first, second = (fitted_to_all(option, (1.0,), model, rows)["kernel"] for rows in (one, other))
        assert np.array_equal(first, second), option


def test_a_trained_step_has_a_prospect_where_rows_and_errors_abound():
    assert expected_gain(0.74, 3000, 4) > 0.04
    assert expected_gain(0.93, 10000, 77) < 0.01
    assert expected_gain(0.5, 20, 4) < 0.003
    assert expected_gain(1.0, 10**6, 2) == 0
    assert Prospect("top", 0.04, 0.02, 60.0).pays
    assert not Prospect("top", 0.002, 0.02, None).pays
    assert not Prospect("top", expected_gain(0.0, 9, 2), visible(0.0, 1), None).pays, "one row shows no gain"
    assert visible(0.02, 500) == 0.02


def with_names(model, pooled, labels, names, classes=(0, 1, 2)):
    named = Names(names[list(classes)], np.array(classes))
    return labelled_states((pooled, None), (labels, None), keys(len(labels)), shared=False, names=named)


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 2)])
@pytest.mark.parametrize("pull", [0.5, 5.0])
def test_a_name_pulls_the_mean_of_its_class(pull, classes, tiny):
    """By hand: means between rows and moved names, the covariance of the rows alone; others have their means."""
    model, pooled, labels = problem(tiny, rows=13)
    names = np.random.default_rng(5).normal(size=(3, BOUNDARIES, WIDTH)).astype(np.float32)
    rows = with_names(model, pooled, labels, names, classes)
    named = np.isin(np.arange(3), classes)
    x, t = (p[:, -1] / np.linalg.norm(p[:, -1], axis=1, keepdims=True) for p in (pooled, names))
    counts = np.bincount(labels)
    means = np.stack([x[labels == c].mean(0) for c in range(3)])
    moved = t - t[named].mean(0) + means[named].mean(0)
    within = x - means[labels]
    covariance = 0.7 * within.T @ within / 10
    covariance += 0.3 * np.trace(within.T @ within) / 10 / WIDTH * np.eye(WIDTH)
    pulled = (counts[:, None] * means + pull * moved) / (counts[:, None] + pull)
    means = np.where(named[:, None], pulled, means)
    kernel = np.linalg.solve(covariance, means.T)
    shares = np.log((counts + pull) / (counts + pull).sum())
    params = fitted(LinearHead(LAST, 0.3, pull=pull), model, rows)
    np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(params["bias"], shares - 0.5 * (means.T * kernel).sum(0), rtol=1e-3, atol=1e-2)
    plain = fitted(LinearHead(LAST, 0.3), model, rows)
    without = fitted(LinearHead(LAST, 0.3), model, all_rows(pooled, labels))
    np.testing.assert_allclose(plain["kernel"], without["kernel"], rtol=1e-2, atol=1e-2, err_msg="names are not read")


def test_a_class_without_a_row_is_where_its_name_says(tiny):
    model, pooled, labels = problem(tiny, rows=12)
    names = np.zeros((3, BOUNDARIES, WIDTH), np.float32)
    names[:, -1, :3] = np.eye(3)
    few = labels < 2
    rows = with_names(model, pooled[few], labels[few], names)
    params = fitted(LinearHead(LAST, 0.3, pull=1.0), model, rows)
    x = pooled[:, -1] / np.linalg.norm(pooled[:, -1], axis=1, keepdims=True)
    assert ((x @ params["kernel"] + params["bias"]).argmax(1) == labels).mean() > 0.9
    unnamed = with_names(model, pooled[few], labels[few], names, classes=(0, 1))
    params = fitted(LinearHead(LAST, 0.3, pull=1.0), model, unnamed)
    assert ((x @ params["kernel"] + params["bias"]).argmax(1) < 2).all(), "a class without row and name is no answer"


def test_an_average_has_the_weights_that_unseen_rows_give(tiny):
    """By hand from what each head says of the rows it has not seen; on the features of several probes."""
    model, pooled, labels = problem(tiny, rows=18, noise=2.0)
    rows = all_rows(pooled, labels)
    upper = several_states(tiny.spec)[0]
    heads = (LinearHead(LAST, 0.3), LinearHead(upper, 1.0), LinearHead(LAST, None, 1.0))
    apart = compared([HeadOption((head,)) for head in heads], model, rows)
    sums = apart.losses.sum(axis=1)
    weights = np.exp(-sums) / np.exp(-sums).sum()
    assert evidence(apart.losses) == pytest.approx(weights, rel=1e-5)
    together = compared([HeadOption(heads)], model, rows, known=apart)
    whole = together.factors[0][0] / (weights[0] * apart.factors[0][0])
    expected = [whole * weight * factor for weight, (factor,) in zip(weights, apart.factors, strict=True)]
    assert together.factors[0] == pytest.approx(expected, rel=1e-4)
    for row in range(18):
        rest = np.delete(apart.losses, row, axis=1).sum(axis=1)
        of_row = np.exp(-rest) / np.exp(-rest).sum()
        logits = whole * sum(weight * one[row] for weight, one in zip(of_row, apart.logits, strict=True))
        assert together.logits[0][row] == pytest.approx(logits, abs=1e-4), "no row has a say in its own weights"
    params = fitted_to_all(HeadOption(heads), together.factors[0], model, rows)
    assert together.options[0].probe == upper
    features = {
        probe: (states / np.linalg.norm(states, axis=2, keepdims=True) / states.shape[1] ** 0.5).reshape(18, -1)
        for probe, states in ((LAST, pooled[:, -1:]), (upper, pooled[:, list(upper.boundaries)]))
    }
    logits = np.zeros((18, 3))
    for head, factor in zip(heads, together.factors[0], strict=True):
        of_head = fitted(head, model, rows)
        logits += factor * (features[head.probe] @ of_head["kernel"] + of_head["bias"])
    assert features[upper] @ params["kernel"] + params["bias"] == pytest.approx(logits, abs=2e-3)


def test_evidence_of_many_rows_takes_no_head_out_of_an_average():
    losses = np.random.default_rng(0).uniform(size=(3, 400))
    weights = np.exp(-20 * losses.mean(axis=1))
    assert evidence(losses) == pytest.approx(weights / weights.sum())
    assert evidence(np.zeros((3, 0))) == pytest.approx([1 / 3] * 3)


def test_names_weigh_what_rows_say_of_them(tiny):
    model, pooled, labels = problem(tiny, rows=18)
    said = {}
    for kind, order in (("right", [0, 1, 2]), ("misleading", [1, 2, 0])):
        names = np.zeros((3, BOUNDARIES, WIDTH), np.float32)
        names[:, :, :3] = np.eye(3)[order][:, None]
        rows = with_names(model, pooled, labels, names)
        comparison = on_last(model, rows)
        (option,) = comparison.options
        weights = evidence(compared([HeadOption((head,)) for head in option.heads], model, rows, comparison).losses)
        said[kind] = sum(weight for weight, head in zip(weights, option.heads, strict=True) if head.pull == 5.0)
        assert (comparison.logits[0].argmax(1) == labels).mean() > 0.9, "whatever the names say"
    assert said["right"] > 2 * said["misleading"], said


def test_heads_are_averaged_where_a_label_has_few_rows(tiny):
    for rows, averaged in ((60, True), (63, False)):
        model, pooled, labels = problem(tiny, rows=rows)
        few = all_rows(pooled, labels)
        last = on_last(model, few)
        several = on_several(model, few, last)
        assert ((len(last.options), len(several.options)) == (1, 1)) == averaged
        assert all((len(option.heads) > 1) == averaged for option in several.options)
        if averaged:
            assert several.unseen.keys() > last.unseen.keys()
            assert all(several.unseen[head] is last.unseen[head] for head in last.unseen), "nothing is fitted twice"
