"""Lean trunks: shared, factorised, grouped and of low rank, against numpy; what they count, store and refuse."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.block_counts import block_forward, embedding_forward
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.exchange.exporting import export_hf
from backbone.network.activations import ACTIVATIONS
from backbone.network.encoder import Network
from backbone.network.masked_head import init_head
from backbone.network.stored import Stored
from backbone.storage import in_precision, load_backbone, save_backbone
from backbone.trees import count, flatten
from tests import reference
from tests.tiny import COMPACT, SPEC, preprocessing_of, random_params

LEAN = {"groups": 1, "embedding_width": 16, "kv_heads": 2, "mlp_rank": 8, "norm_function": "rms"}


@pytest.fixture(scope="module")
def params():
    return jax.device_put(random_params(COMPACT))


@pytest.fixture(scope="module")
def compact(compact_path):
    return load_backbone(compact_path)


def token_rows(lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, SPEC.vocabulary, n).astype(np.int32) for n in lengths]


@pytest.mark.parametrize(
    "spec",
    [COMPACT, *(replace(SPEC, **{name: value}) for name, value in LEAN.items()), replace(SPEC, kv_heads=1)],
    ids=["all", *LEAN, "one key"],
)
def test_every_boundary_equals_the_numpy_implementation(spec):
    network, params = Network(spec), random_params(spec)
    rows = token_rows((3, 9, 12))
    ids, mask = pad(rows, 12)

    @jax.jit
    def run(params, ids, mask):
        return network.run_blocks(params, network.embed(params, {"ids": ids}), mask, taps=range(spec.blocks + 1))[1]

    states = run(params, ids, mask)
    for i, row in enumerate(rows):
        for k, expected in enumerate(reference.states(params, row, spec)):
            np.testing.assert_allclose(states[k][i, : len(row)], expected, atol=1e-4)


def test_a_group_is_stored_once_and_a_suffix_needs_its_group_alone(params):
    network = Network(COMPACT)
    assert sorted(params["blocks"]) == ["0", "1"]
    assert [COMPACT.weights_key(block) for block in range(4)] == ["0", "0", "1", "1"]
    ids, mask = pad(token_rows((7, 8)), 8)
    hidden = network.embed(params, {"ids": ids})
    whole = network.run_blocks(params, hidden, mask)
    below = network.run_blocks({"blocks": {"0": params["blocks"]["0"]}}, hidden, mask, stop=2)
    above = network.run_blocks({"blocks": {"1": params["blocks"]["1"]}}, below, mask, start=2)
    np.testing.assert_allclose(above, whole, atol=1e-5)


def test_the_gradient_of_shared_weights_is_the_sum_of_those_of_its_blocks(params):
    network, apart = Network(COMPACT), replace(COMPACT, groups=0)
    ids, mask = pad(token_rows((7, 8)), 8)
    copies = params | {"blocks": {str(k): params["blocks"][COMPACT.weights_key(k)] for k in range(4)}}

    def loss(params, network):
        return jnp.sin(network.run_blocks(params, network.embed(params, {"ids": ids}), mask)).sum()

    shared, alone = jax.grad(loss)(params, network), jax.grad(loss)(copies, Network(apart))
    for group, blocks in (("0", "01"), ("1", "23")):
        total = jax.tree.map(lambda a, b: a + b, *(alone["blocks"][block] for block in blocks))
        for path, leaf in flatten(total).items():
            np.testing.assert_allclose(flatten(shared["blocks"][group])[path], leaf, rtol=1e-3, atol=1e-4)


def test_bytes_are_those_of_the_formula():
    d, e, kv, m, r, v = 32, 16, 16, 64, 8, COMPACT.vocabulary
    block = d * (d + 2 * kv) + (d + 2 * kv) + d * d + d + r * (d + m) + m + r * (m + d) + d + 4 * d
    embeddings = (v + COMPACT.positions + 2 + 2) * e + e * d + d
    assert count(Network(COMPACT).abstract()) == 2 * block + embeddings + d * d + d
    head = init_head(COMPACT, jax.random.key(0))
    assert head["dense"]["kernel"].shape == (d, e)


@pytest.mark.parametrize("change", [{}, {"kv_heads": 0}, {"mlp_rank": 0}])
def test_counted_work_is_that_of_the_compiler(change):
    spec = replace(COMPACT, width=128, embedding_width=64, mlp_width=512, **{"mlp_rank": 32, **change})
    network = Network(spec)

    def run(params, ids):
        return network.run_blocks(params, network.embed(params, {"ids": ids}), jnp.ones(ids.shape, bool))

    lowered = jax.jit(run).lower(network.abstract(), jax.ShapeDtypeStruct((8, 32), jnp.int32))
    counted = embedding_forward(spec, 8, 32) + spec.blocks * block_forward(spec, 8, 32)
    assert counted.flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.1)


def test_a_lean_backbone_is_stored_loaded_and_named_by_its_architecture(compact, tmp_path):
    assert compact.spec == COMPACT
    ids = {compact.weights_id}
    for name, value in (("groups", 1), ("norm_function", "layer"), ("activation", "relu")):
        spec = replace(COMPACT, **{name: value})
        params = random_params(spec) if name == "groups" else random_params(COMPACT)
        record = save_backbone(tmp_path / name, spec, params, preprocessing_of(spec), {"source": "tests"})
        ids.add(record.weights_id)
    assert len(ids) == 4, "the same bytes in another architecture are another backbone"
    with pytest.raises(InputError, match="family 'bert' cannot hold"):
        export_hf(compact.path, tmp_path / "hf")


@pytest.mark.parametrize("tag", ["bfloat16", "int4", "int8"])
def test_every_kernel_is_stored_in_the_precision(tag, compact):
    cheaper = in_precision(compact, tag)
    for path, leaf in flatten(cheaper.params).items():
        assert isinstance(leaf, Stored) == path.endswith("kernel") or path.startswith("embeddings"), path
    ids, mask = pad(token_rows((8, 8)), 8)
    exact, rough = (
        np.asarray(one.network.run_blocks(one.params, one.network.embed(one.params, {"ids": ids}), mask))
        for one in (compact, cheaper)
    )
    cosine = (exact * rough).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rough, axis=-1)
    assert cosine.mean() > (0.6 if tag == "int4" else 0.99), "random weights of a squared relu amplify"
    assert np.abs(exact - rough).max() > 0


def test_squared_relu_and_fresh_factors():
    np.testing.assert_allclose(ACTIVATIONS["squared_relu"](jnp.array([-2.0, 0.5, 3.0])), [0, 0.25, 9])
    up = Network(replace(COMPACT, width=256, mlp_width=512, mlp_rank=64)).init(0)["blocks"]["0"]["mlp"]["up"]
    assert np.std(up["low"]["kernel"] @ up["kernel"]) == pytest.approx(0.02 * 0.88**2, rel=0.05), "both are truncated"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups: 3 does not divide 4 blocks"),
        ({"groups": -1}, "groups: may not be negative"),
        ({"groups": 2, "first_norm": False, "norm": "pre"}, "groups: block 0 has no attention norm"),
        ({"kv_heads": 3}, "kv_heads: 3 does not divide 4 heads"),
        ({"embedding_width": 64}, "embedding_width: at most the width 32, got 64"),
        ({"mlp_rank": 32}, "mlp_rank: 32 is no low rank; it must be below 32"),
    ],
)
def test_specs_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SPEC, blocks=4, **change)
