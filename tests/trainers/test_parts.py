"""Batches, the step, metrics and the probe, each against a formula or an independent implementation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Ladder, Lora, MultiLabel, Probe
from backbone.trees import flatten
from trainers.config import Optimizer
from trainers.data.batches import Examples, batches
from trainers.data.order import Order
from trainers.fitting.linear_head import STRENGTHS, fit_linear
from trainers.fitting.step import first_state, join, make_optimizer, make_step, partition
from trainers.scoring.metrics import gather

LABELS = ("a", "b", "c")


def examples(count=50, seed=0, lengths=(8, 16, 32)) -> Examples:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(5, 180, n).astype(np.int32) for n in draw.integers(3, 33, count)]
    return Examples(rows, draw.integers(0, 3, count).astype(np.int32), lengths)


def test_an_epoch_holds_every_row_once_in_its_own_bucket():
    data = examples()
    order = Order(data.buckets, batch_size=8, seed=4)
    plan = order.epoch(0)
    assert sorted(np.concatenate([rows for _, rows in plan])) == list(range(50))
    assert len(plan) == order.ends[0] == len(order.epoch(1))
    for bucket, rows in plan:
        assert (data.buckets[rows] == bucket).all()
        assert len(rows) <= 8
    assert [r.tolist() for _, r in plan] == [r.tolist() for _, r in order.epoch(0)], "a function of seed and epoch"
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in order.epoch(1)]
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in Order(data.buckets, 8, seed=5).epoch(0)]


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_can_be_entered_anywhere(threads):
    data = examples()
    order = Order(data.buckets, batch_size=8, seed=4)
    whole = list(batches(data, order, 2, 0, threads))
    tail = list(batches(data, order, 2, 3, threads))
    assert len(whole) == order.ends[0]
    for expected, found in zip(whole[3:], tail, strict=True):
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])
    for batch, (bucket, rows) in zip(whole, order.epoch(2), strict=True):
        assert batch["ids"].shape == batch["mask"].shape == (8, bucket)
        assert batch["weights"].sum() == len(rows)
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(batch["ids"][i][batch["mask"][i]], data.rows[row])
            assert batch["labels"][i] == data.labels[row]


@pytest.mark.parametrize("spec", [Lora(rank=2), Bottleneck(width=3), IA3(), Ladder(reduction=4), Probe()])
def test_one_step_equals_the_same_step_by_hand_and_touches_only_what_is_live(spec, tiny):
    model = GraftModel(tiny.network, (spec,), Classification(), LABELS)
    params = jax.tree.map(np.array, model.init(jax.random.key(0)))
    live, frozen = partition(params, lambda path: not path.startswith("head.bias"))
    assert flatten(join(live, frozen)).keys() == flatten(params).keys()
    config = Optimizer(learning_rate=1e-2, schedule="constant")
    optimizer = make_optimizer(config, 10)
    batch = next(iter(batches(examples(), Order(examples().buckets, 8, 0), 0, 0, 1)))
    before = {path: np.array(leaf) for path, leaf in flatten(tiny.params).items()}

    state = jax.device_put(first_state(live, optimizer))
    step = make_step(model, optimizer, dtype="float32", remat=False, seed=0)
    state = step(state, {"backbone": tiny.params, "graft": frozen}, batch)

    def loss(tree):
        logits = model.logits(tiny.params, join(tree, frozen), batch)
        rows = -jax.nn.log_softmax(logits)[jnp.arange(8), batch["labels"]] * batch["weights"]
        return rows.sum() / batch["weights"].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(live)
    updates, _ = optax.adamw(1e-2, weight_decay=0.0).update(
        gradient, optax.adamw(1e-2, weight_decay=0.0).init(live), live
    )
    wanted = flatten(optax.apply_updates(live, updates))
    assert flatten(state["live"]).keys() == wanted.keys() == flatten(live).keys()
    for path, leaf in flatten(state["live"]).items():
        close = np.abs(np.asarray(leaf) - wanted[path]) < 1e-5
        tiny_gradient = np.abs(flatten(gradient)[path]) < 1e-6  # Adam's first step is a sign: noise decides
        assert (close | tiny_gradient).all(), path
    np.testing.assert_allclose(state["sums"]["loss"] / state["sums"]["rows"], value, rtol=1e-5)
    for path, leaf in flatten(tiny.params).items():
        np.testing.assert_array_equal(leaf, before[path])


def test_a_batch_that_is_not_finite_changes_nothing_and_is_counted(tiny):
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), LABELS)
    live, frozen = partition(jax.tree.map(np.array, model.init(jax.random.key(0))), lambda path: True)
    optimizer = make_optimizer(Optimizer(), 10)
    step = make_step(model, optimizer, dtype="float32", remat=False, seed=0)
    batch = next(iter(batches(examples(), Order(examples().buckets, 8, 0), 0, 0, 1)))
    broken = jax.tree.map(lambda leaf: leaf, tiny.params)
    broken["blocks"]["1"]["mlp"]["down"]["bias"] = jnp.full((32,), jnp.nan)
    state = step(jax.device_put(first_state(live, optimizer)), {"backbone": broken, "graft": frozen}, batch)
    assert state["sums"]["skipped"] == 1
    assert state["step"] == 1
    for path, leaf in flatten(state["live"]).items():
        np.testing.assert_array_equal(leaf, flatten(live)[path])


def test_accumulated_micro_batches_equal_one_large_batch(tiny):
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), LABELS)
    live, frozen = partition(jax.tree.map(np.array, model.init(jax.random.key(0))), lambda path: True)
    frozen = {"backbone": tiny.params, "graft": frozen}
    data = Examples([np.arange(5, 12, dtype=np.int32) + i for i in range(8)], np.arange(8, dtype=np.int32) % 3, (8,))
    whole = jax.device_put(data.gather(8, np.arange(8), 8))
    halves = [jax.device_put(data.gather(8, np.arange(4) + 4 * i, 4)) for i in range(2)]
    results = []
    for accumulate, parts in ((1, [whole]), (2, halves)):
        optimizer = make_optimizer(Optimizer(learning_rate=1e-2, clip_norm=0.1, accumulate=accumulate), 10)
        step = make_step(model, optimizer, dtype="float32", remat=False, seed=0)
        state = jax.device_put(first_state(live, optimizer))
        for part in parts:
            state = step(state, frozen, part)
        results.append(state["live"]["head"]["kernel"])
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)
    assert np.abs(results[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.5, 0.0]),
        ("linear", 0.2, [0.0, 0.625, 0.0]),
        ("cosine", 0.0, [1.0, 0.5, 0.0]),
        ("constant", 0.0, [1.0, 1.0, 1.0]),
    ],
)
def test_the_schedule_at_its_boundaries(schedule, warmup, expected):
    """The size of an SGD-like update reveals the rate: Adam's first step on a fresh moment is the rate itself."""
    optimizer = make_optimizer(Optimizer(learning_rate=1.0, schedule=schedule, warmup_fraction=warmup), 10)
    params = {"w": jnp.ones((1, 1))}
    rates = []
    state = optimizer.init(params)
    for _ in range(11):
        updates, state = optimizer.update({"w": jnp.ones((1, 1))}, state, params)
        rates.append(-float(updates["w"][0, 0]))
    np.testing.assert_allclose([rates[0], rates[5], rates[10]], expected, atol=1e-4)


def test_gradients_are_clipped_to_their_norm():
    """Against gradients that are scaled by hand: 10 becomes 1, one half stays."""
    direction = np.array([[0.6, 0.8]], np.float32)
    params = {"w": jnp.ones((1, 2))}
    results = []
    for clip, sizes in ((1.0, (10.0, 0.5)), (0.0, (1.0, 0.5)), (0.0, (10.0, 0.5))):
        optimizer = make_optimizer(Optimizer(learning_rate=0.1, schedule="constant", clip_norm=clip), 10)
        state = optimizer.init(params)
        for size in sizes:
            updates, state = optimizer.update({"w": size * direction}, state, params)
        results.append(np.asarray(updates["w"]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    assert np.abs(results[0] - results[2]).max() > 1e-3


def test_weight_decay_shrinks_matrices_and_leaves_vectors():
    optimizer = make_optimizer(Optimizer(learning_rate=0.1, schedule="constant", weight_decay=0.5), 10)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones((2,))}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-5)
    np.testing.assert_array_equal(updates["b"], 0)


def test_metrics_equal_scikit_learn(tiny):
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Lora(),), Classification(), LABELS)
    logits, labels = draw.normal(size=(200, 3)).astype(np.float32), draw.integers(0, 3, 200).astype(np.int32)
    labels[:120] = logits[:120].argmax(1)
    parts = [gather(model, logits[i : i + 50], labels[i : i + 50]) for i in range(0, 200, 50)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3]).compute()
    predicted = logits.argmax(1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert merged["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert merged["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert merged["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert merged["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    constant = gather(model, np.tile([9.0, 0, 0], (5, 1)).astype(np.float32), np.zeros(5, np.int32)).compute()
    assert (constant["accuracy"], constant["matthews"]) == (1.0, 0.0)


def test_multi_label_metrics_equal_scikit_learn(tiny):
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Lora(),), MultiLabel(), LABELS)
    logits = draw.normal(size=(100, 3)).astype(np.float32)
    truth = ((logits + draw.normal(size=logits.shape)) > 0).astype(np.float32)
    found = gather(model, logits[:40], truth[:40]).merge(gather(model, logits[40:], truth[40:])).compute()
    predicted = logits >= 0
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))


def test_the_probe_is_a_logistic_regression(tiny):
    """Against scikit-learn at the strength it chose: the same loss on the training rows, to a percent."""
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Probe(),), Classification(), LABELS)
    centres = draw.normal(size=(3, 32))
    labels = draw.integers(0, 3, 600).astype(np.int32)
    x = (centres[labels] + 1.5 * draw.normal(size=(600, 32)) * np.linspace(0.1, 5, 32)).astype(np.float32)
    fitted = fit_linear(model, x[:400], labels[:400], (x[400:], labels[400:]), "accuracy")
    logits = x[:400] @ fitted.head["kernel"] + fitted.head["bias"]
    standard = (x[:400] - x[:400].mean(0)) / x[:400].std(0)
    other = LogisticRegression(C=1 / (fitted.strength * 400), max_iter=2000, tol=1e-8).fit(standard, labels[:400])
    mine = gather(model, logits, labels[:400]).compute()["loss"]
    assert mine == pytest.approx(log_loss(labels[:400], other.predict_proba(standard)), rel=0.02)
    alone = fit_linear(model, x, labels, None, "accuracy")
    assert alone.head["kernel"].shape == (32, 3)
    assert list(alone.scores) == [f"{strength:g}" for strength in STRENGTHS]
