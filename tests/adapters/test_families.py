"""Every method on every kind of encoder: the suite of `test_methods`, on pre-norm, gated, rotary, local and images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.counts import block_forward
from adapters.merging import merge
from adapters.model import GraftModel
from adapters.patterns import sites_of
from adapters.specs import Classification
from backbone.buckets import pad
from backbone.encoder import Network
from backbone.families import FAMILIES
from backbone.sites import LINEAR
from backbone.spec import EncoderSpec
from backbone.trees import flatten
from tests.adapters.test_methods import LABELS, MERGEABLE, METHODS, SITE, nonzero
from tests.families import config_of, images, token_rows
from tests.tiny import random_params

ENCODERS = {name: FAMILIES[name].spec(config_of(name), set()) for name in ("modernbert", "deit")}


def inputs_of(spec: EncoderSpec) -> dict[str, np.ndarray]:
    from backbone.images import patches

    rows = [patches(p, spec.image) for p in images("deit", 2)] if spec.image else token_rows((12, 7))
    ids, mask = pad(rows, max(map(len, rows)))
    return {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    """Spec, weights, inputs and plain features of an encoder."""
    spec = ENCODERS[request.param]
    backbone, inputs = jax.device_put(random_params(spec)), inputs_of(spec)
    model = GraftModel(Network(spec), (), Classification(), LABELS)
    return spec, backbone, inputs, np.asarray(jax.jit(model.features)(backbone, {}, inputs))


@pytest.mark.parametrize("name", METHODS)
def test_identity_at_the_start_and_gradients_everywhere(name, encoder):
    spec, backbone, inputs, plain = encoder
    model = GraftModel(Network(spec), (METHODS[name],), Classification(), LABELS)
    start, moved = model.init(jax.random.key(0)), nonzero(model)

    @jax.jit
    def both(params):
        features = model.features(backbone, params.get("adapter", {}), inputs)
        return features, jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(params)

    features, _ = both(start)
    if getattr(model.site_parts.get(METHODS[name].method, (None,))[0], "identity_at_start", True):
        np.testing.assert_allclose(features[:, -spec.width :], plain, atol=1e-5)
    _, gradient = both(moved)
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"


@pytest.mark.parametrize("name", [name for name in MERGEABLE if name in SITE])
def test_merged_equals_unmerged(name, encoder):
    spec, backbone, inputs, plain = encoder
    model = GraftModel(Network(spec), (METHODS[name],), Classification(), LABELS)
    bare = GraftModel(Network(spec), (), Classification(), LABELS)
    adapter = nonzero(model, size=0.1)["adapter"]
    wanted = jax.jit(model.features)(backbone, adapter, inputs)
    found = jax.jit(bare.features)(merge(model, backbone, adapter), {}, inputs)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted - plain).max() > 1e-3


def test_sites_have_the_shapes_of_the_kernels_and_counts_follow(encoder):
    spec, backbone, _, _ = encoder
    block = backbone["blocks"]["0"]
    for site in sites_of(spec, LINEAR, "0:1"):
        part, layer = site.name.split("/")
        if layer in ("query", "key", "value"):
            assert (site.inputs, 3 * site.outputs) == block["attention"]["qkv"]["kernel"].shape
        else:
            assert (site.inputs, site.outputs) == block[part][layer]["kernel"].shape
    kernels = sum(leaf.size for path, leaf in flatten(block).items() if path.endswith("kernel"))
    longer, shorter = block_forward(spec, 2, 1).flops, block_forward(spec, 1, 1).flops
    assert longer - shorter >= 2 * kernels, "a row costs two operations for each weight, and norms"
    assert longer - shorter < 3 * kernels
