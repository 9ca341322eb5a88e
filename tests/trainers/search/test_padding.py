"""A padded trial in the program of its group is the trial alone, step by step."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Dora, Lora, LoraOverride
from backbone.trees import flatten, map_leaves, unflatten
from trainers.fitting.state import LoopState
from trainers.search.padding import factors_of, multiplied, padded, shared_model
from trainers.search.training import Programs, TrialTask, advance

GROUPS = {
    "rank": (Lora(rank=2), Lora(rank=7), Lora(rank=3, alpha=5.0)),
    "overrides": (Lora(rank=2, overrides=(LoraOverride("attention/query", rank=5),)),) * 2,
    "dora": (Dora(rank=1), Dora(rank=4)),
    "width": (Bottleneck(width=3), Bottleneck(width=8)),
    "parallel": (Bottleneck(width=3, placement="parallel", scale=4.0), Bottleneck(width=8, placement="parallel")),
    "ia3": (IA3(), IA3()),
}


def cut(adapter, model):
    """Padded adapter leaves in the shapes of `model`."""
    shapes = flatten(model.abstract()["adapter"])
    return unflatten({path: leaf[tuple(map(slice, shapes[path].shape))] for path, leaf in flatten(adapter).items()})


def model_of(tiny, method) -> GraftModel:
    return GraftModel(tiny.network, (method,), Classification(), ("a", "b", "c"))


def noisy(model: GraftModel) -> dict:
    """Parameters none of which is at its start."""
    draw = np.random.default_rng(3)
    return map_leaves(lambda leaf: np.asarray(leaf + 0.3 * draw.normal(size=leaf.shape), np.float32),
                      model.init(jax.random.key(1)))  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_padded_logits_are_those_of_the_trial_alone(tiny, name):
    models = [model_of(tiny, method) for method in GROUPS[name]]
    shared = shared_model(models)
    assert shared is not None
    inputs = {"ids": np.arange(5, 45, dtype=np.int32).reshape(4, 10), "mask": np.ones((4, 10), bool)}
    for model in models:
        params = noisy(model)
        wide = {**params, "adapter": padded(params["adapter"], shared)}
        expected = model.logits(tiny.params, params, inputs)
        own = shared.logits(tiny.params, multiplied(wide, factors_of(model, shared)), inputs)
        np.testing.assert_allclose(own, expected, rtol=2e-5, atol=2e-5)
        back = flatten(cut(wide["adapter"], model))
        assert all(np.array_equal(leaf, back[path]) for path, leaf in flatten(params["adapter"]).items())


@pytest.mark.parametrize(
    "methods",
    [
        (Lora(rank=2), Dora(rank=2)),
        (Lora(rank=2), Lora(rank=2, sites=("mlp/up",))),
        (Lora(rank=2), Lora(rank=4, blocks="1:")),
        (Lora(rank=2), Lora(rank=4, dropout=0.1)),
        (Bottleneck(width=2), Bottleneck(width=2, activation="gelu")),
        (Bottleneck(width=2), Bottleneck(width=2, placement="houlsby")),
    ],
)
def test_what_padding_cannot_make_equal_shares_no_model(tiny, methods):
    assert shared_model([model_of(tiny, method) for method in methods]) is None


def trained(task, model, shared, programs, **fields):
    """Parameters after all steps, in the shapes of `model`."""
    config = replace(task.config, **fields)
    trial = TrialTask(config, shared, task.backbone, task.train, task.dev, factors=factors_of(model, shared),
                      programs=programs)  # fmt: skip
    params = map_leaves(np.asarray, model.init(jax.random.key(config.seed)))
    state = LoopState(trial, {**params, "adapter": padded(params["adapter"], shared)})
    advance(trial, state, trial.total_steps)
    return {**state.params, "adapter": cut(state.params["adapter"], model)}, state


def alone(task, model, **fields):
    """The same by the step of `topgraft train`."""
    plain = replace(task, config=replace(task.config, **fields), model=model)
    state = LoopState(plain, map_leaves(np.asarray, model.init(jax.random.key(plain.config.seed))))
    state.enter(plain.span_at(0), False)
    for batch in plain.batches(0, plain.total_steps, None):
        state.arrays = state.step(state.arrays, state.fixed, batch)
    return state.params


def test_one_program_trains_ranks_rates_seeds_and_scales_as_their_own_programs_do(task, tiny):
    models = [model_of(tiny, method) for method in (Lora(rank=2, alpha=7.0), Lora(rank=5))]
    shared, programs = shared_model(models), Programs()
    assert shared is not None
    for model, rate, seed in zip(models, (1e-2, 3e-3), (0, 1), strict=True):
        optimizer = replace(task.config.optimizer, learning_rate=rate, clip_norm=1.0, weight_decay=0.01)
        fields = {"optimizer": optimizer, "seed": seed}
        one, state = trained(task, model, shared, programs, **fields)
        two = flatten(alone(task, model, **fields))
        for path, leaf in flatten(one).items():
            np.testing.assert_allclose(leaf, two[path], rtol=2e-3, atol=2e-5, err_msg=path)
        left = flatten(state.params["adapter"])
        beyond = [leaf[:, model.methods[0].rank :] for path, leaf in left.items() if path.endswith(".a")]
        assert not any(leaf.any() for leaf in beyond), "a padded column moved"
    assert len(programs._steps) == 1


def test_another_rate_gives_other_parameters(task, tiny):
    model, programs = model_of(tiny, Lora(rank=2)), Programs()
    fast, _ = trained(task, model, model, programs)
    slow, _ = trained(task, model, model, programs, optimizer=replace(task.config.optimizer, learning_rate=1e-4))
    apart = max(float(np.abs(a - b).max()) for a, b in zip(flatten(fast).values(), flatten(slow).values(), strict=True))
    assert apart > 1e-3
