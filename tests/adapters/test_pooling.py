"""Poolings and pairs of texts against formulas written by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.costs import forward
from adapters.model import GraftModel
from adapters.specs import Classification
from backbone.buckets import Sides, pad
from backbone.network.encoder import Network
from backbone.trees import flatten, map_leaves, unflatten
from tests import reference
from tests.tiny import SPEC, random_params

LABELS = ("a", "b", "c")
SIZES = (3, 5, 2, 7)


@pytest.fixture(scope="module")
def backbone():
    return jax.device_put(random_params())


@pytest.fixture(scope="module")
def sides():
    draw = np.random.default_rng(3)
    return [draw.integers(5, SPEC.vocabulary, n).astype(np.int32) for n in SIZES]


def model_of(head) -> GraftModel:
    return GraftModel(Network(SPEC), (), head, LABELS)


def nonzero(model: GraftModel, seed: int = 0):
    draw = np.random.default_rng(seed)
    leaves = flatten(model.abstract())
    return unflatten({p: jnp.asarray(0.3 * draw.normal(size=x.shape), jnp.float32) for p, x in leaves.items()})


def inputs_of(rows):
    ids, mask = pad(rows, 8)
    return {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}


def last_state(backbone, row):
    return reference.states(map_leaves(np.asarray, backbone), row, SPEC)[-1]


def test_attention_pooling_equals_its_formula_and_begins_as_the_mean(backbone, sides):
    model = model_of(Classification(pooling="attention"))
    inputs = inputs_of(sides)
    params = nonzero(model)
    query = np.asarray(params["head"]["query"])
    features = model.features(backbone, {}, inputs, head=params["head"])
    start = model.features(backbone, {}, inputs, head=model.init(jax.random.key(0))["head"])
    mean = model.features(backbone, {}, inputs)
    np.testing.assert_allclose(start, mean, atol=1e-6)
    assert np.abs(features - mean).max() > 1e-3
    for i, row in enumerate(sides):
        state = last_state(backbone, row)
        shares = np.exp(state @ query / np.sqrt(SPEC.width))
        np.testing.assert_allclose(features[i], shares / shares.sum() @ state, atol=2e-5)


@pytest.mark.parametrize("pair", ["two_tower", "cosine"])
def test_pairs_encoded_apart_equal_their_formula(pair, backbone, sides):
    model = model_of(Classification(pair=pair))
    rows = [Sides(sides[0], sides[1]), Sides(sides[3], sides[2])]
    features = model.features(backbone, {}, inputs_of(rows))
    for i, row in enumerate(rows):
        u, v = (last_state(backbone, side).mean(0) for side in (row.first, row.second))
        expected = np.concatenate([u, v, np.abs(u - v), u * v])
        if pair == "cosine":
            expected = np.array([u @ v / np.linalg.norm(u) / np.linalg.norm(v)])
        np.testing.assert_allclose(features[i], expected, atol=5e-5)
    assert features.shape == (2, model.feature_width)
    assert forward(model, 2, 8).flops > 1.9 * forward(model_of(Classification()), 2, 8).flops


def test_a_pair_read_as_one_row_has_segments(backbone, sides):
    """The state of a token differs by its segment's embedding, as the paper adds it."""
    row = np.stack([sides[3], np.arange(7) >= 4], axis=1).astype(np.int32)
    states = Network(SPEC).embed(backbone, inputs_of([row]))[0, :7]
    e = map_leaves(np.asarray, backbone["embeddings"])
    x = e["token"][sides[3]] + e["position"][:7] + e["segment"][row[:, 1]]
    expected = reference.norm(x, e["norm"]["scale"], e["norm"]["bias"], SPEC.norm_epsilon)
    np.testing.assert_allclose(states, expected, atol=1e-5)
    assert np.abs(states - Network(SPEC).embed(backbone, inputs_of([sides[3]]))[0, :7]).max() > 1e-3
