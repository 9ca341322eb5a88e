"""Every method and a head on every precision of a trunk; grafts that are loaded on another precision than theirs."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topgraft
from adapters.artefact.manifest import Training, identity
from adapters.export.compiled import export_jax
from adapters.merging import merge
from adapters.model import GraftModel
from adapters.specs import Classification, Dora, Lora
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.precisions.precision import Precision, ids_of, precision_named
from backbone.storage import in_precision, load_backbone
from backbone.trees import flatten
from backbone.variants.registered import variants
from tests.grafts import EMPTY, make, nonzero
from tests.methods import METHODS
from tests.tiny import SPEC, random_params

CHEAPER = tuple(tag for tag in variants(Precision) if tag != "float32")
TEXTS = ["ban bas bal", "bas", "bal ban ban bas"]


@pytest.fixture(scope="module")
def trunks():
    params = random_params()
    return {tag: jax.device_put(precision_named(tag).prepare(params)) for tag in variants(Precision)}


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(3)
    mask = np.arange(8) < np.array([5, 8, 3, 7])[:, None]
    return {"ids": jnp.asarray(draw.integers(0, SPEC.vocabulary, mask.shape), jnp.int32), "mask": jnp.asarray(mask)}


def cosine(a, b) -> float:
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float) for tree in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_traced_in_both_directions_on_every_precision(name, trunks, inputs):
    """Adapters, heads and gradients stay float32."""
    model = GraftModel(Network(SPEC), (METHODS[name],), Classification(), ("a", "b", "c"))
    params = model.init(jax.random.key(0))

    def loss(params, trunk):
        return model.head.loss(model.logits(trunk, params, inputs), jnp.array([0, 1, 2, 0])).sum()

    for tag in CHEAPER:
        gradient = flatten(jax.eval_shape(jax.grad(loss), params, trunks[tag]))
        assert {path: leaf.shape for path, leaf in gradient.items()} == {p: x.shape for p, x in flatten(params).items()}
        assert {leaf.dtype for leaf in gradient.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["lora everywhere", "ia3"])
def test_a_method_answers_on_int8_nearly_as_on_float32(name, trunks, inputs):
    model = GraftModel(Network(SPEC), (METHODS[name],), Classification(), ("a", "b", "c"))
    params, answers = nonzero(model, size=0.1), jax.jit(lambda trunk, params: model.logits(trunk, params, inputs))
    assert 0.98 <= cosine(answers(trunks["int8"], params), answers(trunks["float32"], params)) < 1 - 1e-12


def test_the_gradient_of_lora_passes_through_kernels_of_bfloat16(trunks, inputs):
    model = GraftModel(Network(SPEC), (Lora(rank=4),), Classification(), ("a", "b", "c"))
    params = nonzero(model, size=0.02)

    @jax.jit
    def gradient(trunk):
        def loss(params):
            return model.head.loss(model.logits(trunk, params, inputs), jnp.array([0, 1, 2, 0])).sum()

        return jax.grad(loss)(params)["adapter"]

    assert 0.9999 <= cosine(gradient(trunks["bfloat16"]), gradient(trunks["float32"])) < 1 - 1e-12


@pytest.mark.parametrize("tag", CHEAPER)
def test_a_magnitude_is_that_of_the_stored_kernel(tag, trunks, inputs):
    """DoRA reads the values of a kernel; with B zero it is the plain product, whatever the precision."""
    model = GraftModel(Network(SPEC), (Dora(rank=2),), Classification(), ("a", "b", "c"))
    fresh = model.init(jax.random.key(0))
    plain = GraftModel(Network(SPEC), (), Classification(), ("a", "b", "c")).features(trunks[tag], {}, inputs)
    np.testing.assert_array_equal(model.features(trunks[tag], fresh["adapter"], inputs), plain)


@pytest.mark.parametrize("tag", CHEAPER)
def test_an_adapter_is_not_merged_into_rounded_weights(tag, trunks):
    model = GraftModel(Network(SPEC), (Lora(rank=2),), Classification(), ("a", "b"))
    with pytest.raises(InputError, match="load the backbone with precision=float32"):
        merge(model, trunks[tag], nonzero(model)["adapter"])


@pytest.fixture(scope="module")
def grafts(tiny, tmp_path_factory):
    """One graft on each precision, none validated in another; and one of float32 validated in bfloat16."""
    folder = tmp_path_factory.mktemp("grafts")
    for tag in variants(Precision):
        make(folder / tag, in_precision(tiny, tag))
    make(folder / "both", tiny, variants=("bfloat16",))
    return folder


def test_a_graft_loads_on_the_precision_that_it_was_trained_in(grafts, tiny_path, tiny):
    for tag in variants(Precision):
        graft = topgraft.load(grafts / tag, tiny_path)
        assert (graft.backbone.precision, graft.manifest.variants) == (tag, (tag,))
        assert graft.manifest.weights_id == ids_of(tiny.base_id)[tag]
    assert len({topgraft.load(grafts / tag, tiny_path).manifest.content_id for tag in variants(Precision)}) == len(
        variants(Precision)
    )


@pytest.mark.parametrize(("trained", "other"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("int8", "bfloat16")])
def test_another_precision_is_refused_by_name(trained, other, grafts, tiny_path):
    message = f"in {trained}, and not validated in {other}: load it with precision={trained}, or train it again"
    with pytest.raises(InputError, match=message):
        topgraft.load(grafts / trained, tiny_path, precision=other)
    with pytest.raises(InputError, match=f"precision={other}, but the loaded backbone is in {trained}"):
        topgraft.load(grafts / trained, load_backbone(tiny_path, precision=trained), precision=other)


def test_one_in_which_it_was_validated_is_taken(grafts, tiny_path):
    whole = topgraft.load(grafts / "both", tiny_path)
    other = topgraft.load(grafts / "both", tiny_path, precision="bfloat16")
    assert (whole.backbone.precision, other.backbone.precision) == ("float32", "bfloat16")
    assert 1e-6 < np.abs(whole.logits(TEXTS) - other.logits(TEXTS)).max() < 0.3
    alone = replace(whole.manifest, variants=("float32",))
    assert identity(whole.manifest) != identity(alone), "what may be served is part of what a graft is"


def test_another_backbone_is_told_as_such(grafts, tmp_path):
    from tests.tiny import make_tiny_backbone

    other = make_tiny_backbone(tmp_path / "other", seed=2)
    with pytest.raises(InputError, match="grafted on another backbone: its weights_id"):
        topgraft.load(grafts / "int8", other)


def test_a_former_run_in_bfloat16_loads_in_bfloat16(tiny, tiny_path, tmp_path):
    """Its weights_id was that of float32; `compute_dtype` and `variants` said the rest."""
    former = Training(config={"compute_dtype": "bfloat16", "validate": []}, **{
        name: getattr(EMPTY, name) for name in ("seeds", "data", "metrics", "costs", "versions")
    })  # fmt: skip
    make(tmp_path / "former", tiny, training=former, variants=("bfloat16",))
    graft = topgraft.load(tmp_path / "former", tiny_path)
    assert graft.backbone.precision == "bfloat16"


@pytest.mark.parametrize("tag", CHEAPER)
def test_an_export_answers_as_the_graft_in_its_precision(tag, grafts, tiny_path, tmp_path):
    report = export_jax(grafts / tag, tmp_path / "out", backbone=tiny_path, buckets=(8,), batch=2)
    assert report.precision == tag
    assert (
        report.largest_difference < {"int8": 1e-4, "int4": 1e-4, "bfloat16": 2e-2}[tag]
    )  # bfloat16 rounds what fusion moves
    plain = export_jax(grafts / "float32", tmp_path / "plain", backbone=tiny_path, buckets=(8,), batch=2)
    saved = [(tmp_path / name / "weights.npz").stat().st_size for name in ("plain", "out")]
    assert (plain.precision, saved[0] > 1.5 * saved[1]) == ("float32", True)
