"""Every method on the encoder that is least like BERT: pre-norm, gated, rotary, local, a block without a norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.block_counts import block_forward
from adapters.merging import merge
from adapters.model import GraftModel
from adapters.patterns import sites_of
from adapters.specs import Classification
from backbone.buckets import pad
from backbone.network.encoder import Network
from backbone.network.sites import LINEAR, NORM
from backbone.trees import flatten
from tests.families import config_of, family_of, token_rows
from tests.grafts import nonzero
from tests.methods import MERGEABLE, METHODS
from tests.tiny import random_params

LABELS = ("a", "b", "c")
CHOSEN = (
    "lora everywhere",
    "houlsby",
    "ia3",
    "dora",
    "vera",
    "ssf",
    "bias",
    "norm",
    "prefix",
    "router",
    "probe",
    "ladder",
)
SPEC = family_of("modernbert").spec(config_of("modernbert"), set())


def bare() -> GraftModel:
    return GraftModel(Network(SPEC), (), Classification(), LABELS)


@pytest.fixture(scope="module")
def encoder():
    """Weights, inputs and plain features."""
    ids, mask = pad(token_rows((12, 7)), 12)
    backbone, inputs = jax.device_put((random_params(SPEC), {"ids": ids, "mask": mask}))
    return backbone, inputs, np.asarray(jax.jit(bare().features)(backbone, {}, inputs))


@pytest.mark.parametrize("name", CHOSEN)
def test_identity_at_the_start_and_gradients_everywhere(name, encoder):
    backbone, inputs, plain = encoder
    model = GraftModel(Network(SPEC), (METHODS[name],), Classification(), LABELS)
    start, moved = model.init(jax.random.key(0)), nonzero(model)

    @jax.jit
    def both(params):
        features = model.features(backbone, params.get("adapter", {}), inputs)
        return features, jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(params)

    features, _ = both(start)
    if METHODS[name].identity_at_start:
        np.testing.assert_allclose(features[:, -SPEC.width :], plain, atol=1e-5)
    _, gradient = both(moved)
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"


@pytest.mark.parametrize("name", [name for name in CHOSEN if name in MERGEABLE])
def test_merged_equals_unmerged(name, encoder):
    backbone, inputs, plain = encoder
    model = GraftModel(Network(SPEC), (METHODS[name],), Classification(), LABELS)
    adapter = nonzero(model, size=0.1)["adapter"]
    wanted = jax.jit(model.features)(backbone, adapter, inputs)
    found = jax.jit(bare().features)(merge(model, backbone, adapter), {}, inputs)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted - plain).max() > 1e-3


def test_a_block_without_an_attention_norm_has_no_site_there():
    names = [site.full_name for site in sites_of(SPEC, NORM)]
    assert names == ["0/mlp/norm", "1/attention/norm", "1/mlp/norm"]


def test_sites_have_the_shapes_of_the_kernels_and_counts_follow(encoder):
    block = encoder[0]["blocks"]["0"]
    for site in sites_of(SPEC, LINEAR, "0:1"):
        part, layer = site.name.split("/")
        if layer in ("query", "key", "value"):
            assert (site.inputs, 3 * site.outputs) == block["attention"]["qkv"]["kernel"].shape
        else:
            assert (site.inputs, site.outputs) == block[part][layer]["kernel"].shape
    kernels = sum(leaf.size for path, leaf in flatten(block).items() if path.endswith("kernel"))
    longer, shorter = block_forward(SPEC, 2, 1).flops, block_forward(SPEC, 1, 1).flops
    assert longer - shorter >= 2 * kernels, "a row costs two operations for each weight, and norms"
    assert longer - shorter < 3 * kernels
