"""First weights that look at neighbours, against attention computed by hand."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from backbone.network.encoder import INIT_STD, Network
from backbone.network.local_start import start_locally
from backbone.spec import EncoderSpec
from backbone.trees import flatten

SPEC = EncoderSpec(blocks=2, width=64, heads=4, mlp_width=64, vocabulary=50, positions=40, pooler=False)
OFFSETS = (-1, 1, -2, 2)


def attention_of_first_block(params: dict, spec: EncoderSpec, ids: np.ndarray) -> np.ndarray:
    """Weights [H,T,T] of one row of ids [T], by numpy."""
    parts = {name: np.asarray(leaf, np.float64) for name, leaf in flatten(params["embeddings"]).items()}
    x = parts["token"][ids] + parts["position"][: len(ids)] + parts["segment"][0]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + spec.norm_epsilon)
    kernel = np.asarray(params["blocks"]["0"]["attention"]["qkv"]["kernel"], np.float64)
    query, key = (x @ kernel[:, i * spec.width : (i + 1) * spec.width] for i in (0, 1))
    size = spec.width // spec.heads
    scores = np.stack(
        [query[:, h * size : (h + 1) * size] @ key[:, h * size : (h + 1) * size].T for h in range(spec.heads)]
    )
    weights = np.exp(scores / np.sqrt(size))
    return weights / weights.sum(-1, keepdims=True)


def at_offset(weights: np.ndarray, offset: int) -> float:
    """Mean weight of the key at `offset` from the query, where there is one."""
    return float(np.diagonal(weights, offset).mean())


SIZES = [{}, {"width": 66, "heads": 6}, {"width": 63, "heads": 3}, {"positions": 8}, {"width": 128, "positions": 256}]


@pytest.mark.parametrize("sizes", SIZES)
def test_each_head_of_block_0_looks_at_its_own_neighbour(sizes):
    spec = replace(SPEC, **sizes)
    fresh = Network(spec).init(0)
    params = start_locally(spec, fresh)
    ids = np.random.default_rng(0).integers(0, spec.vocabulary, spec.positions)
    begun, before = (attention_of_first_block(p, spec, ids) for p in (params, fresh))
    for head in range(spec.heads):
        offset = (head // 2 + 1) * (1 if head % 2 else -1)
        far = spec.positions * 3 // 4  # beyond, the mean is over few pairs
        others = [at_offset(begun[head], other) for other in range(-far, far + 1) if other != offset]
        assert at_offset(begun[head], offset) > max(others)
        assert at_offset(begun[head], offset) > 1.5 * at_offset(before[head], offset)


def test_positions_are_as_large_as_tokens_and_the_rest_is_as_it_was():
    fresh = Network(SPEC).init(0)
    params = start_locally(SPEC, fresh)
    assert np.square(np.asarray(params["embeddings"]["position"])).mean() == pytest.approx(INIT_STD**2, rel=1e-5)
    changed = {"embeddings.position", "blocks.0.attention.qkv.kernel"}
    old, new = flatten(fresh), flatten(params)
    assert {path for path in new if not np.array_equal(new[path], old[path])} == changed
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), fresh
    )
    value = np.asarray(params["blocks"]["0"]["attention"]["qkv"]["kernel"])[:, 2 * SPEC.width :]
    np.testing.assert_array_equal(value, old["blocks.0.attention.qkv.kernel"][:, 2 * SPEC.width :])
