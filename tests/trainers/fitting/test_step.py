"""One step and its optimiser, each against a formula or an independent implementation."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Ladder, Lora, Probe
from backbone.storage import in_precision
from backbone.trees import flatten, map_leaves
from tests.trainers.training import examples
from trainers.config import Optimizer
from trainers.data.batches import Examples, batches
from trainers.data.order import Order
from trainers.fitting.step import first_state, join, make_optimizer, make_step, partition, step_of


def test_the_step_is_compiled_as_the_config_says(task):
    """Rematerialised or not, on a trunk in bfloat16 or not; leaves stay float32."""
    batch = task.train.gather(*task.order.epoch(0)[0], 8)

    def program(precision: str = "float32", **fields) -> str:
        backbone = in_precision(task.backbone, precision)
        one = replace(task, config=replace(task.config, **fields), backbone=backbone)
        live, frozen = partition(map_leaves(np.asarray, one.model.init(jax.random.key(0))), lambda path: True)
        state, fixed = first_state(live, one.optimizer()), one.fixed(frozen)
        return str(jax.make_jaxpr(one.make_step(one.optimizer()))(state, fixed, batch))

    assert ("remat" in program(), "bf16" in program()) == (False, False)
    assert ("remat" in program(remat=True), "bf16" in program("bfloat16")) == (True, True)


LABELS = ("a", "b", "c")


@pytest.mark.parametrize("spec", [Lora(rank=2), Bottleneck(width=3), IA3(), Ladder(reduction=4), Probe()])
def test_one_step_equals_the_same_step_by_hand_and_touches_only_what_is_live(spec, tiny):
    model = GraftModel(tiny.network, (spec,), Classification(), LABELS)
    params = jax.tree.map(np.array, model.init(jax.random.key(0)))
    live, frozen = partition(params, lambda path: not path.startswith("head.bias"))
    assert flatten(join(live, frozen)).keys() == flatten(params).keys()
    assert flatten(frozen).keys() == {"head.bias"}, "all but the bias of the head is live"
    config = Optimizer(learning_rate=1e-2, schedule="constant")
    optimizer = make_optimizer(config, 10)
    batch = next(iter(batches(examples(), Order(examples().buckets, 8, 0), 0, 0, 1)))
    before = {path: np.array(leaf) for path, leaf in flatten(tiny.params).items()}

    state = jax.device_put(first_state(live, optimizer))
    step = make_step(model, optimizer, remat=False, seed=0)
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
    step = make_step(model, optimizer, remat=False, seed=0)
    batch = next(iter(batches(examples(), Order(examples().buckets, 8, 0), 0, 0, 1)))
    broken = jax.tree.map(lambda leaf: leaf, tiny.params)
    broken["blocks"]["1"]["mlp"]["down"]["bias"] = jnp.full((32,), jnp.nan)
    state = step(jax.device_put(first_state(live, optimizer)), {"backbone": broken, "graft": frozen}, batch)
    assert state["sums"]["skipped"] == 1
    assert state["step"] == 1
    for path, leaf in flatten(state["live"]).items():
        np.testing.assert_array_equal(leaf, flatten(live)[path])


def square_root(live, frozen, batch, rng):
    """A loss whose gradient is infinite where the loss is zero."""
    return jnp.sqrt(live["w"] * batch).sum(), jnp.float32(2)


def test_a_gradient_that_is_not_finite_leaves_moments_and_sums_alone():
    optimizer = make_optimizer(Optimizer(learning_rate=0.1, schedule="constant"), 10)
    step = step_of(square_root, optimizer, seed=0, track=True)
    state = step(first_state({"w": jnp.ones(2)}, optimizer, track=True), {}, jnp.ones(2))
    before = jax.tree.map(np.array, state)
    after = step(state, {}, jnp.array([1.0, 0.0]))
    assert np.isfinite(float(after["sums"]["loss"])), "the loss is zero for the second row, its gradient is not finite"
    assert after["sums"]["skipped"] == 1
    assert after["step"] == 2
    for name in ("live", "optimizer", "gradient"):
        for left, right in zip(jax.tree.leaves(after[name]), jax.tree.leaves(before[name]), strict=True):
            np.testing.assert_array_equal(left, right, err_msg=name)
    again = step(after, {}, jnp.ones(2))
    assert np.all(np.asarray(again["live"]["w"]) < before["live"]["w"]), "the next batch trains on"


def test_every_step_has_a_random_key_of_its_own():
    """The loss is the number that is drawn, so its sum over steps is that of the keys made by hand."""
    optimizer = make_optimizer(Optimizer(), 10)
    drawn = lambda live, frozen, batch, rng: (jax.random.uniform(rng) + 0 * live["w"], jnp.float32(1))  # noqa: E731
    step = step_of(drawn, optimizer, seed=7)
    state = first_state({"w": jnp.zeros(())}, optimizer)
    for _ in range(3):
        state = step(state, {}, 0)
    keys = [jax.random.fold_in(jax.random.key(7), number) for number in range(3)]
    assert state["sums"]["loss"] == pytest.approx(sum(float(jax.random.uniform(key)) for key in keys))


def test_gradients_are_summed_for_a_schedule_that_reads_them():
    optimizer = make_optimizer(Optimizer(learning_rate=0.5, schedule="constant", accumulate=3), 10)
    half_square = lambda live, frozen, batch, rng: (batch * live["w"] ** 2 / 2, jnp.float32(1))  # noqa: E731
    step = step_of(half_square, optimizer, seed=0, track=True)
    state = first_state({"w": jnp.float32(3.0)}, optimizer, track=True)
    for batch in (1.0, 10.0):  # no optimiser step is due, so that w stays 3
        state = step(state, {}, batch)
    assert state["gradient"]["w"] == 33.0


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
        step = make_step(model, optimizer, remat=False, seed=0)
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
