"""Every method on the encoders that are least like BERT.

One is pre-norm, gated, rotary, local, with a block without a norm. The other is lean in every way, and a third is so
without sharing weights or kernels of low rank, so that adapters can be merged into it.
"""

from __future__ import annotations

from dataclasses import replace

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
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.network.sites import LINEAR, NORM
from backbone.trees import flatten
from tests import reference
from tests.families import config_of, family_of, token_rows
from tests.grafts import nonzero
from tests.methods import MERGEABLE, METHODS
from tests.tiny import COMPACT, random_params

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
SPECS = {"modernbert": SPEC, "compact": COMPACT, "unshared": replace(COMPACT, blocks=2, groups=0, mlp_rank=0)}


def bare(spec) -> GraftModel:
    return GraftModel(Network(spec), (), Classification(), LABELS)


@pytest.fixture(scope="module", params=SPECS)
def encoder(request):
    """Architecture, weights, inputs and plain features."""
    spec = SPECS[request.param]
    ids, mask = pad(token_rows((12, 7)), 12)
    backbone, inputs = jax.device_put((random_params(spec), {"ids": ids, "mask": mask}))
    return spec, backbone, inputs, np.asarray(jax.jit(bare(spec).features)(backbone, {}, inputs))


@pytest.mark.parametrize("name", CHOSEN)
def test_identity_at_the_start_and_gradients_everywhere(name, encoder):
    spec, backbone, inputs, plain = encoder
    model = GraftModel(Network(spec), (METHODS[name],), Classification(), LABELS)
    start, moved = model.init(jax.random.key(0)), nonzero(model)

    @jax.jit
    def both(params):
        features = model.features(backbone, params.get("adapter", {}), inputs)
        return features, jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(params)

    features, _ = both(start)
    if METHODS[name].identity_at_start:
        np.testing.assert_allclose(features[:, -spec.width :], plain, atol=1e-5)
    _, gradient = both(moved)
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"


@pytest.mark.parametrize("name", [name for name in CHOSEN if name in MERGEABLE])
def test_merged_equals_unmerged(name, encoder):
    spec, backbone, inputs, plain = encoder
    model = GraftModel(Network(spec), (METHODS[name],), Classification(), LABELS)
    adapter = nonzero(model, size=0.1)["adapter"]
    if spec.shares_weights:
        with pytest.raises(InputError, match="merge: the 4 blocks have 2 sets of weights"):
            merge(model, backbone, adapter)
        return
    wanted = jax.jit(model.features)(backbone, adapter, inputs)
    found = jax.jit(bare(spec).features)(merge(model, backbone, adapter), {}, inputs)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted - plain).max() > 1e-3


def test_a_block_without_an_attention_norm_has_no_site_there():
    names = [site.full_name for site in sites_of(SPEC, NORM)]
    assert names == ["0/mlp/norm", "1/attention/norm", "1/mlp/norm"]


def test_sites_have_the_shapes_of_the_kernels_and_counts_follow(encoder):
    spec, backbone, *_ = encoder
    block = backbone["blocks"]["0"]
    for site in sites_of(spec, LINEAR, "0:1"):
        part, layer = site.name.split("/")
        if layer in ("query", "key", "value"):
            assert (site.inputs, site.outputs) == (spec.width, spec.width if layer == "query" else spec.kv_width)
        else:
            assert (site.inputs, site.outputs) == reference.kernel(block[part][layer]).shape
    assert block["attention"]["qkv"]["kernel"].shape == (spec.width, spec.width + 2 * spec.kv_width)
    kernels = sum(leaf.size for path, leaf in flatten(block).items() if path.endswith("kernel"))
    longer, shorter = block_forward(spec, 2, 1).flops, block_forward(spec, 1, 1).flops
    assert longer - shorter >= 2 * kernels, "a row costs two operations for each weight, and norms"
    assert longer - shorter < 3.2 * kernels


def test_a_kernel_of_low_rank_is_not_merged():
    spec = replace(SPECS["unshared"], mlp_rank=8)
    model = GraftModel(Network(spec), (METHODS["lora everywhere"],), Classification(), LABELS)
    with pytest.raises(InputError, match="the kernel at 0/mlp/up has rank 8, a merged one has not"):
        merge(model, jax.device_put(random_params(spec)), nonzero(model)["adapter"])
