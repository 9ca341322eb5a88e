"""Gradients by masks, smaller kernels and their tuning, each against the plain network or NumPy."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from adapters.suffix import SUFFIX, SuffixBlock
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.trees import flatten
from tests.grafts import nonzero
from tests.tiny import SPEC, random_params
from trainers.pruning.fisher import mask_gradients
from trainers.pruning.hooks import Recorder, RowMasks
from trainers.pruning.kernels import scaled, sliced
from trainers.pruning.masks import Masks
from trainers.pruning.tuning import tuned

MODERN = replace(
    SPEC, norm="pre", mlp="gated", rotary_theta=100.0, pooler=False, segments=0, windows=(0, 2, 0), local_theta=50.0
)
SPECS = {"post": SPEC, "pre, gated, rotary": MODERN}
FIRST = 1
DRAW = np.random.default_rng(0)
HIDDEN = DRAW.normal(size=(5, 7, 32)).astype(np.float32)
MASK = np.arange(7)[None, :] < np.array([[7], [3], [5], [7], [4]])
HEADS = np.array([[True, False, True, True], [False, True, False, False]])
UNITS = DRAW.uniform(size=(2, 64)) < 0.6


@pytest.fixture(params=SPECS)
def network(request) -> Network:
    return Network(SPECS[request.param])


def test_gradients_by_masks_are_those_of_scaled_kernels(network):
    """Central differences of each row's loss, with the rows of a kernel a little larger or smaller."""
    trunk = random_params(network.spec)
    model = GraftModel(network, (Probe(),), Classification(), ("a", "b", "c"))
    params = {"adapter": {}, "head": nonzero(model)["head"]}
    weights, labels = np.array([1, 1, 1, 1, 0], np.float32), np.array([0, 1, 2, 1, 0], np.int32)
    batch = {"states": {FIRST: HIDDEN}, "mask": MASK, "labels": labels, "weights": weights}
    heads, units = mask_gradients(model, trunk, params, FIRST, [batch])
    assert heads.shape == (4, 2, 4)
    assert units.shape == (4, 2, 64)

    @jax.jit
    def losses(block):
        changed = {**trunk, "blocks": {**trunk["blocks"], "1": block}}
        return model.head.loss(model.logits(changed, params, {"states": {FIRST: HIDDEN}, "mask": MASK}), labels)[:4]

    for part, name, count, place, gradients in (("attention", "output", 4, 2, heads), ("mlp", "down", 64, 9, units)):
        step = np.eye(count)[place] * 1e-2
        high, low = (losses(scaled(trunk["blocks"]["1"], part, name, 1 + s)) for s in (step, -step))
        np.testing.assert_allclose(gradients[:, 0, place], (high - low) / 2e-2, atol=2e-3, rtol=2e-2)


def test_a_smaller_block_is_the_masked_one(network):
    trunk = random_params(network.spec)
    blocks = {
        str(FIRST + i): sliced(trunk["blocks"][str(FIRST + i)], HEADS[i], UNITS[i], network.spec) for i in range(2)
    }
    rows = [np.broadcast_to(mask, (5, *mask.shape)).astype(np.float32) for mask in (HEADS, UNITS)]
    masked = network.run_blocks(trunk, HIDDEN, MASK, RowMasks(*map(jnp.asarray, rows), FIRST), start=FIRST)
    np.testing.assert_allclose(network.run_blocks({"blocks": blocks}, HIDDEN, MASK, start=FIRST), masked, atol=2e-5)
    assert blocks["1"]["attention"]["qkv"]["kernel"].shape == (32, 3 * 3 * 8)
    suffix = tuple(SuffixBlock(FIRST + i, int(HEADS[i].sum()), int(UNITS[i].sum())) for i in range(2))
    model = GraftModel(network, (Probe(),), Classification(), ("a",), suffix)
    expected = {path: leaf.shape for path, leaf in flatten(model.abstract()[SUFFIX]).items()}
    assert {path: leaf.shape for path, leaf in flatten(blocks).items()} == expected


def test_factors_are_the_least_squares_of_the_paper(network):
    """The first layer of each kind in one block, written out as a matrix with a column for each head or unit."""
    trunk = random_params(network.spec)
    masks = Masks(HEADS[:1], UNITS[:1])
    block = tuned(network, trunk, FIRST, masks, [HIDDEN[:3], HIDDEN[3:]], [MASK[:3], MASK[3:]])["1"]
    plain = sliced(trunk["blocks"]["1"], HEADS[0], UNITS[0], network.spec)

    def passes(weights) -> Recorder:
        recorder = Recorder()
        network.run_blocks({"blocks": {"1": weights}}, HIDDEN, MASK, recorder, start=FIRST, stop=FIRST + 1)
        return recorder

    whole, first = passes(trunk["blocks"]["1"]), passes(plain)
    kernel = plain["attention"]["output"]["kernel"].reshape(3, 8, 32)
    mixed = np.asarray(first.inputs["attention/output"])[MASK].reshape(-1, 3, 8)
    columns = np.einsum("nhd,hdo->noh", mixed, kernel).reshape(-1, 3)
    rest = np.asarray(whole.outputs["attention/output"] - first.outputs["attention/output"])[MASK].reshape(-1)
    factors = 1 + np.linalg.lstsq(columns, rest, rcond=None)[0]
    got = block["attention"]["output"]["kernel"].reshape(3, 8, 32)
    np.testing.assert_allclose(got, kernel * factors[:, None, None], rtol=2e-2, atol=1e-4)
    assert np.abs(factors - 1).max() > 0.05

    def distance(weights) -> float:
        following = [
            np.asarray(network.run_blocks({"blocks": {"1": w}}, HIDDEN, MASK, start=FIRST, stop=FIRST + 1))[MASK]
            for w in (trunk["blocks"]["1"], weights)
        ]
        return float(np.square(following[0] - following[1]).sum())

    assert distance(block) < 0.95 * distance(plain), "the layer's output comes closer to the whole one's"


def test_nothing_removed_is_nothing_changed(network):
    trunk = random_params(network.spec)
    masks = Masks(np.ones((2, 4), bool), np.ones((2, 64), bool))
    blocks = tuned(network, trunk, FIRST, masks, [HIDDEN], [MASK])
    for path, leaf in flatten(blocks).items():
        np.testing.assert_allclose(leaf, flatten(trunk["blocks"])[path], atol=2e-4, err_msg=path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ((SuffixBlock(0, 1, 1), SuffixBlock(2, 1, 1)), r"blocks must follow one another below 3, got \[0, 2\]"),
        ((SuffixBlock(3, 1, 1),), r"below 3, got \[3\]"),
        ((SuffixBlock(2, 5, 1),), r"is larger than the trunk's 4 heads and 64 units"),
    ],
)
def test_a_suffix_that_does_not_fit_the_trunk_is_refused(tiny, suffix, message):
    with pytest.raises(InputError, match=message):
        GraftModel(tiny.network, (Probe(),), Classification(), ("a",), suffix)
    shared = Network(replace(tiny.spec, kv_heads=2))
    with pytest.raises(InputError, match=r"suffix: the blocks of this trunk are compact already \(kv_heads\)"):
        GraftModel(shared, (Probe(),), Classification(), ("a",), (SuffixBlock(2, 1, 1),))
    with pytest.raises(InputError, match="at least one head and one unit"):
        SuffixBlock(0, 0, 1)
