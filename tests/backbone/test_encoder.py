"""The encoder against an independent numpy BERT, and the exactness that cutting and caching rely on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.buckets import pad
from backbone.network.attention import attention
from backbone.network.encoder import Network
from backbone.spec import EncoderSpec
from tests import reference
from tests.tiny import SPEC, random_params


@pytest.fixture(scope="module")
def params():
    return jax.device_put(random_params())


@pytest.fixture(scope="module")
def network():
    return Network(SPEC)


def token_rows(lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, SPEC.vocabulary, n).astype(np.int32) for n in lengths]


def test_every_boundary_equals_the_numpy_implementation(network, params):
    rows = token_rows((3, 9, 16, 1))
    ids, mask = pad(rows, 16)
    hidden = network.embed(params, {"ids": ids})
    _, states = network.run_blocks(params, hidden, mask, taps=range(SPEC.blocks + 1))
    for i, row in enumerate(rows):
        for k, expected in enumerate(reference.states(params, row, SPEC)):
            np.testing.assert_allclose(states[k][i, : len(row)], expected, atol=2e-5)
    assert np.abs(states[0] - states[3]).max() > 0.1, "the blocks do something"


def test_a_padded_batch_equals_each_row_alone(network, params):
    rows = token_rows((5, 12, 16))
    ids, mask = pad(rows, 16)
    run = jax.jit(lambda i, m: network.run_blocks(params, network.embed(params, {"ids": i}), m))
    together = run(ids, mask)
    for i in range(3):
        alone = run(ids[i : i + 1], mask[i : i + 1])[0]
        n = len(rows[i])
        np.testing.assert_allclose(alone[:n], together[i, :n], atol=1e-5)


@pytest.mark.cpu_bits
def test_minilm_is_exact_under_cuts_permutation_and_batch_size(minilm):
    """Bit for bit in one bucket on CPU, for batches of 8 rows and more: what caching relies on."""
    network, params = minilm.network, minilm.params
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 30_000, (16, 12)).astype(np.int32)
    mask = np.arange(12)[None] < draw.integers(3, 13, (16, 1))
    embed = jax.jit(lambda p, i: network.embed(p, {"ids": i}))
    run = jax.jit(network.run_blocks, static_argnames=("start", "stop"))
    whole = np.asarray(run(params, embed(params, ids), mask, start=0, stop=6))
    below = run(params, embed(params, ids), mask, start=0, stop=4)
    np.testing.assert_array_equal(run(params, below, mask, start=4, stop=6), whole)
    order = draw.permutation(16)[:8]
    fewer = np.asarray(run(params, embed(params, ids[order]), mask[order], start=0, stop=6))
    np.testing.assert_array_equal(fewer[mask[order]], whole[order][mask[order]])


@pytest.mark.parametrize("cut", [1, 2])
def test_a_cut_between_blocks_changes_nothing(network, params, cut):
    ids, mask = pad(token_rows((7, 8)), 8)
    hidden = network.embed(params, {"ids": ids})
    whole = network.run_blocks(params, hidden, mask, start=0, stop=3)
    below = network.run_blocks(params, hidden, mask, start=0, stop=cut)
    np.testing.assert_allclose(network.run_blocks(params, below, mask, start=cut, stop=3), whole, atol=1e-5)


def test_a_suffix_runs_without_the_weights_of_its_prefix(network, params):
    ids, mask = pad(token_rows((7, 8)), 8)
    hidden = network.embed(params, {"ids": ids})
    top = {"blocks": {"2": params["blocks"]["2"]}}
    np.testing.assert_allclose(
        network.run_blocks(top, hidden, mask, start=2), network.run_blocks(params, hidden, mask, start=2)
    )


def test_bfloat16_is_close_and_not_equal(network, params):
    ids, mask = pad(token_rows((7, 8)), 8)
    wide = network.run_blocks(params, network.embed(params, {"ids": ids}), mask)
    narrow = network.run_blocks(params, network.embed(params, {"ids": ids}, jnp.bfloat16), mask)
    assert narrow.dtype == jnp.bfloat16
    difference = np.abs(wide - narrow.astype(jnp.float32))[mask]
    assert 0 < difference.mean() < 0.05


def test_rematerialised_gradients_are_the_same(network, params):
    ids, mask = pad(token_rows((7, 8)), 8)

    def loss(p, remat):
        return network.run_blocks(p, network.embed(p, {"ids": ids}), mask, remat=remat).sum()

    plain, again = (jax.grad(loss)(params, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_bad_boundaries_are_refused(network, params):
    hidden, mask = jnp.zeros((1, 4, 32)), jnp.ones((1, 4), bool)
    for arguments in ({"start": 2, "stop": 1}, {"stop": 4}, {"stop": 2, "taps": (3,)}):
        with pytest.raises(ValueError, match=r"start|taps"):
            network.run_blocks(params, hidden, mask, **arguments)


def test_attention_equals_softmax_and_survives_large_scores_and_empty_rows():
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(2, 5, 8)).astype(np.float32) * s for s in (30, 30, 1))
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    found = attention(q, k, v, mask, heads=2)
    for h in range(2):
        s = slice(4 * h, 4 * h + 4)
        weights = reference.softmax(q[0][:, s] @ k[0][:3, s].T / 2)
        np.testing.assert_allclose(found[0][:, s], weights @ v[0][:3, s], atol=1e-5)
    assert np.isfinite(found).all()


def test_prepended_keys_are_visible_to_every_row():
    draw = np.random.default_rng(0)
    q = draw.normal(size=(1, 3, 4)).astype(np.float32)
    k, v = (draw.normal(size=(1, 5, 4)).astype(np.float32) for _ in range(2))
    mask = np.array([[1, 1, 0]], bool)
    found = attention(q, k, v, mask, heads=1)
    weights = reference.softmax(q[0] @ k[0][:4].T / 2)
    np.testing.assert_allclose(found[0], weights @ v[0][:4], atol=1e-5)


def test_a_spec_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="heads: 5 does not divide width 32"):
        EncoderSpec(blocks=1, width=32, heads=5, mlp_width=64, vocabulary=10, positions=8)
