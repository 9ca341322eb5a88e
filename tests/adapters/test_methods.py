"""One suite that every registered method inherits, and each method against its formula written by hand.

A new method is found by its registration: the suite runs its `example()` and the further `EXAMPLES` of its file in
`tests/adapters/formulas`, which holds its formula. It checks identity at the start, gradients, padding, a bank against
single adapters, merging, and the work that the method counts.
"""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.costs import adapter_forward
from adapters.hooks import GraftHooks
from adapters.merging import merge
from adapters.methods.method import Call, Kernel, Method
from adapters.methods.vera import draw_projections
from adapters.model import GraftModel
from adapters.specs import IA3, Bias, Classification, Dora, Ladder, Lora, MultiLabel, Probe, Regression, TokenTagging
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.trees import count, flatten, map_leaves
from backbone.variants.registered import variants
from serving.bank import Bank, Envelope, place_in
from tests import reference
from tests.grafts import nonzero
from tests.methods import FEATURE, FORMULAS, MERGEABLE, METHODS, SITE, UNMERGEABLE, WITH_DROPOUT, says
from tests.tiny import SPEC, random_params

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def backbone():
    return jax.device_put(random_params())


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(3)
    ids, mask = pad([draw.integers(0, SPEC.vocabulary, n).astype(np.int32) for n in (5, 8, 2, 7)], 8)
    return {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}


def model_of(name: str, head=None) -> GraftModel:
    return GraftModel(Network(SPEC), (METHODS[name],), head or Classification(), LABELS)


@pytest.mark.cpu_bits
@pytest.mark.parametrize("name", METHODS)
def test_at_the_start_the_graft_is_exactly_the_plain_backbone(name, backbone, inputs):
    model = model_of(name)
    plain = GraftModel(Network(SPEC), (), Classification(), LABELS).features(backbone, {}, inputs)
    params = model.init(jax.random.key(0))
    found = model.features(backbone, params["adapter"], inputs)
    assert METHODS[name].identity_at_start == says(name, "IDENTITY_AT_START")
    if METHODS[name].identity_at_start:
        np.testing.assert_array_equal(found[:, -SPEC.width :], plain)
    else:
        assert np.abs(found - plain).max() > 1e-3
    changed = model.features(backbone, nonzero(model).get("adapter", {}), inputs)
    if count(params["adapter"]):
        assert np.abs(changed - found).max() > 1e-3, "other parameters give other features"


@pytest.mark.parametrize("name", METHODS)
def test_a_padded_batch_equals_each_row_alone(name, backbone, inputs):
    model = model_of(name)
    params = nonzero(model)
    together = model.logits(backbone, params, inputs)
    for i in range(len(together)):
        alone = {key: value[i : i + 1] for key, value in inputs.items()}
        np.testing.assert_allclose(model.logits(backbone, params, alone)[0], together[i], atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_leaf_and_only_the_graft(name, backbone, inputs):
    model = model_of(name)
    params = nonzero(model)
    gradient = jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(params)
    assert flatten(gradient).keys() == flatten(params).keys()
    for path, leaf in flatten(gradient).items():
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"


def other_settings(method: Method) -> list[Method]:
    """Returns wider settings for the method's bank, and settings that differ in a number that a bank cannot level."""
    numbers = {f.name: getattr(method, f.name) for f in fields(method) if type(getattr(method, f.name)) in (int, float)}
    free = [name for name in numbers if name in getattr(method, "free_in_bank", ())]
    wider = {name: factor * numbers[name] for name, factor in zip(free, (2, 3, 2, 3), strict=False)}
    others: list[Method] = []
    for change in (wider, *({name: 2 * value} for name, value in numbers.items() if name not in free)):
        with contextlib.suppress(InputError):
            other = replace(method, **change)
            model_with(other).abstract()
            others += [other] if other != method else []
    return others


def model_with(method: Method) -> GraftModel:
    return GraftModel(Network(SPEC), (method,), Classification(), LABELS)


@pytest.mark.parametrize("name", METHODS)
def test_a_bank_equals_each_adapter_alone(name, backbone, inputs):
    """The banks of a server: the narrowest envelope around the graft and another one of its method.

    A bank that holds the graft refuses the other, or computes it too; slot 0 is no adapter.
    """
    model = model_of(name)
    alone: dict[int, np.ndarray] = {0: np.zeros((4, 3)), 1: model.logits(backbone, nonzero(model, 1), inputs)}
    for number, other in enumerate(map(model_with, other_settings(METHODS[name]) or [METHODS[name]])):
        grafts = {1: (model, nonzero(model, 1)), 2: (other, nonzero(other, 2))}
        envelope = Envelope.around([model, other], slots=2, labels=4)
        banks = [Bank(Network(SPEC), group, envelope.labels) for group in envelope.groups]
        first = place_in(banks, *grafts[1], name)[0]
        place_in(banks, *grafts[2], name)  # raises where no bank takes it
        held = [0]
        for slot, graft in grafts.items():
            with contextlib.suppress(InputError):
                banks[first].write(slot, banks[first].fit(*graft).leaves)
                held.append(slot)
        if number and 2 not in held:
            continue  # the graft without the other has been compared
        alone[2] = other.logits(backbone, grafts[2][1], inputs) if 2 in held else alone[0]
        slots = [held[-1], 0, 1, held[-1]]
        logits = banks[first].model.logits(backbone, banks[first].leaves, inputs, slots=np.array(slots, np.int32))
        for row, slot in enumerate(slots):
            said = f"slot {slot} of {METHODS[name]} and {other.methods[0]}"
            np.testing.assert_allclose(logits[row, :3], alone[slot][row], rtol=1e-4, atol=2e-5, err_msg=said)


@pytest.mark.parametrize("name", MERGEABLE)
def test_merged_equals_unmerged(name, backbone, inputs):
    model = model_of(name)
    params = nonzero(model)
    plain = GraftModel(Network(SPEC), (), Classification(), LABELS)
    before = {path: np.array(leaf) for path, leaf in flatten(backbone).items()}
    folded = plain.features(merge(model, backbone, params["adapter"]), {}, inputs)
    np.testing.assert_allclose(folded, model.features(backbone, params["adapter"], inputs), atol=5e-5)
    assert np.abs(folded - plain.features(backbone, {}, inputs)).max() > 1e-3
    for path, leaf in flatten(backbone).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg="the backbone itself is left alone")


@pytest.mark.parametrize("name", UNMERGEABLE)
def test_what_cannot_be_merged_says_so(name, backbone):
    model = model_of(name)
    with pytest.raises(InputError, match=rf"{METHODS[name].tag}: cannot be merged into the weights at [02]/"):
        merge(model, backbone, nonzero(model)["adapter"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pooling", ["mean", "first", "pooler", "attention"])
def test_every_method_feeds_every_pooling_and_head(name, pooling, backbone, inputs):
    for head in (Classification(pooling=pooling), MultiLabel(pooling=pooling), Regression(pooling=pooling)):
        logits = model_of(name, head).logits(backbone, nonzero(model_of(name, head)), inputs)
        assert logits.shape == (4, 3)
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_feeds_pairs_and_tags(name, backbone, inputs):
    segments = jnp.broadcast_to(jnp.arange(8) > 2, (4, 8)).astype(jnp.int32)
    both = {**inputs, "ids": jnp.stack([inputs["ids"], segments], axis=-1)}
    cases = (
        (Classification(pair="cross"), both, (4, 3)),
        (Classification(pair="two_tower"), inputs, (2, 3)),
        (Regression(pair="cosine"), inputs, (2, 3)),
        (TokenTagging(), inputs, (4, 8, 3)),
    )
    for head, given, shape in cases:
        model = model_of(name, head)
        logits = model.logits(backbone, nonzero(model), given)
        assert logits.shape == shape
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()


def test_the_methods_with_dropout_are_those_that_state_it():
    assert {METHODS[name].tag for name in WITH_DROPOUT} >= {"lora", "dora", "router", "bottleneck"}


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_acts_only_with_a_key(name, backbone, inputs):
    model = GraftModel(Network(SPEC), (replace(METHODS[name], dropout=0.5),), Classification(), LABELS)
    params = nonzero(model)
    calm = model.logits(backbone, params, inputs)
    np.testing.assert_array_equal(calm, model.logits(backbone, params, inputs))
    noisy = [model.logits(backbone, params, inputs, rng=jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-4
    assert np.abs(noisy[0] - calm).max() > 1e-4


@pytest.mark.parametrize("name", SITE)
def test_site_methods_equal_their_formula(name, backbone, inputs):
    model = model_of(name)
    adapter = nonzero(model)["adapter"]
    ((tag, (method, settings)),) = model.site_parts.items()
    sites: dict[int, dict] = {}
    for site in settings:
        p = {k: np.asarray(v) for k, v in adapter[tag][str(site.block)][site.name].items()}
        sites.setdefault(site.block, {})[site.name] = FORMULAS[tag].formula(method, site, p)
    network, host = Network(SPEC), map_leaves(np.asarray, backbone)
    hooks = GraftHooks(model.site_parts, adapter)
    hidden = network.run_blocks(backbone, network.embed(backbone, inputs), inputs["mask"], hooks)
    for i in range(4):
        row = np.asarray(inputs["ids"][i])[np.asarray(inputs["mask"][i])]
        expected = reference.states(host, row, SPEC, sites)[-1]
        np.testing.assert_allclose(hidden[i, : len(row)], expected, atol=1e-4)


@pytest.mark.parametrize("name", FEATURE)
def test_feature_methods_equal_their_formula(name, backbone, inputs):
    host = map_leaves(np.asarray, backbone)
    model = model_of(name)
    method = model.feature_method
    adapter = {method.tag: {}} | nonzero(model).get("adapter", {})
    p = map_leaves(np.asarray, adapter[method.tag])
    features = model.features(backbone, adapter, inputs)
    for i in range(4):
        row = np.asarray(inputs["ids"][i])[np.asarray(inputs["mask"][i])]
        expected = FORMULAS[method.tag].formula(method, p, reference.states(host, row, SPEC), SPEC)
        np.testing.assert_allclose(features[i], expected, atol=1e-4)


def test_every_method_has_an_example_and_a_formula():
    assert variants(Method).keys() == FORMULAS.keys(), "tests/adapters/formulas holds one file for each method"
    for tag, method in variants(Method).items():
        assert type(method.example()) is method
        assert METHODS[tag] == method.example()


@pytest.mark.parametrize("name", FEATURE)
def test_a_feature_method_states_what_it_reads(name):
    method = METHODS[name]
    assert not method.acts_at_sites
    assert not method.differentiates_backbone
    assert method.stands_alone
    lowest = min(method.taps(SPEC))
    assert [method.reads_below(SPEC, k) for k in range(4)] == [lowest < k for k in range(4)]


@pytest.mark.parametrize("name", [name for name in FEATURE if METHODS[name].reads_pooled])
def test_what_reads_pooled_states_reads_nothing_else(name, backbone, inputs):
    """Then stored pooled states stand in for a forward pass."""
    model = model_of(name)
    params = nonzero(model)
    plain = GraftModel(Network(SPEC), (Probe(boundaries=()),), Classification(), LABELS)
    pooled = plain.features(backbone, {"probe": {}}, inputs).reshape(4, -1, SPEC.width)
    features = model.features(backbone, params.get("adapter", {}), inputs)
    np.testing.assert_array_equal(features, pooled[:, list(model.taps)].reshape(4, -1))


def test_a_probe_is_fitted_and_a_ladder_is_trained():
    assert (Probe.fitted, Probe.reads_pooled) == (True, True)
    assert (Ladder.fitted, Ladder.reads_pooled) == (False, False)


@pytest.mark.parametrize("name", SITE)
def test_a_site_method_reads_states_at_one_boundary_only(name):
    method = METHODS[name]
    assert method.acts_at_sites
    assert method.differentiates_backbone
    assert not method.stands_alone
    assert not method.fitted
    assert not method.reads_pooled
    assert not any(method.reads_below(SPEC, k) for k in range(4))


def test_the_rungs_of_a_ladder_are_narrow_blocks():
    side = METHODS["ladder top"].side_encoder(SPEC)
    assert (side.width, side.blocks) == (16, 2)


def test_query_key_and_value_stay_one_product_unless_an_input_changes(backbone, inputs):
    """Counted in the traced program: LoRA adds its small products and keeps the joint one."""

    def products(name):
        model = model_of(name)
        traced = jax.make_jaxpr(lambda p: model.features(backbone, p, inputs))(model.init(jax.random.key(0))["adapter"])
        shapes = [tuple(e.invars[1].aval.shape) for e in traced.jaxpr.eqns if e.primitive.name == "dot_general"]
        return shapes.count((32, 96)), shapes.count((32, 32))

    assert products("lora") == (3, 3)
    for name in ("bias", "ssf", "dora", "vera", "router"):
        assert products(name)[0] == 3, name
    assert products("ia3 attention") == (0, 12)


def test_combined_methods_act_together(backbone, inputs):
    both = GraftModel(Network(SPEC), (Lora(), IA3(scale_inputs=())), Classification(), LABELS)
    params = nonzero(both)
    assert set(params["adapter"]) == {"lora", "ia3"}
    folded = GraftModel(Network(SPEC), (), Classification(), LABELS).features(
        merge(both, backbone, params["adapter"]), {}, inputs
    )
    np.testing.assert_allclose(folded, both.features(backbone, params["adapter"], inputs), atol=5e-5)
    with pytest.raises(InputError, match="once"):
        GraftModel(Network(SPEC), (Lora(), Lora()), Classification(), LABELS)
    with pytest.raises(InputError, match="at most one"):
        GraftModel(Network(SPEC), (Probe(), Ladder()), Classification(), LABELS)


@pytest.mark.cpu_bits
def test_dora_starts_as_the_identity_in_a_compiled_program_and_survives_an_empty_unit(backbone):
    """A column of zeros has no direction: it stays zero, without a NaN."""
    model = model_of("dora")
    method, settings = model.site_parts["dora"]
    site = next(iter(settings))
    assert method.has_magnitude
    leaves = model.init(jax.random.key(0))["adapter"]["dora"]["0"][site.name]
    qkv = backbone["blocks"]["0"]["attention"]["qkv"]
    kernel = Kernel(qkv["kernel"][:, :32].at[:, 5].set(0), qkv["bias"][:32])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 32)), jnp.float32)

    @jax.jit
    def both(leaves):
        y = x @ kernel.kernel + kernel.bias
        return y, method.after(settings[site], leaves, x, y, kernel, Call(None, None))

    np.testing.assert_array_equal(*both(leaves))
    changed = both({**leaves, "b": leaves["b"].at[:, :5].set(0.3), "magnitude": leaves["magnitude"] + 0.3})[1]
    assert np.isfinite(changed).all()
    np.testing.assert_allclose(changed[..., 5], jnp.broadcast_to(kernel.bias[5], (2, 3)), atol=1e-6)


def test_vera_stores_its_vectors_only():
    model = model_of("vera")
    shapes = {path.rsplit(".", 1)[-1]: leaf.shape for path, leaf in flatten(model.abstract()["adapter"]).items()}
    assert shapes == {"d": (16,), "b": (32,)}
    a, b = draw_projections(16, 32, 64, 3)
    assert (a.shape, b.shape) == ((32, 16), (16, 64))
    assert np.abs(a).max() <= sqrt(6 / 32)
    assert np.abs(b).max() <= sqrt(6 / 16)
    assert np.abs(a - draw_projections(16, 32, 64, 4)[0]).max() > 0.1


def test_a_method_that_reads_the_frozen_kernel_comes_first():
    GraftModel(Network(SPEC), (Dora(), Bias()), Classification(), LABELS)
    GraftModel(Network(SPEC), (Bias(sites=("mlp/*",)), Dora()), Classification(), LABELS)
    with pytest.raises(InputError, match=r"dora must come before bias, which acts at 0/attention/query too"):
        GraftModel(Network(SPEC), (Bias(), Dora()), Classification(), LABELS)


@pytest.mark.parametrize("name", SITE)
def test_the_work_of_a_method_is_what_its_program_multiplies(name, backbone, inputs):
    """Dense products of the traced program beyond the plain backbone's, for four rows of eight tokens."""

    def multiplied(model):
        adapter = model.init(jax.random.key(0)).get("adapter", {})
        traced = jax.make_jaxpr(lambda a: model.features(backbone, a, inputs))(adapter)
        total = 0
        for e in traced.jaxpr.eqns:
            if e.primitive.name == "dot_general":
                (contracted, _), _ = e.params["dimension_numbers"]
                rows = np.prod([e.invars[0].aval.shape[axis] for axis in contracted])
                total += 2 * rows * np.prod(e.outvars[0].aval.shape)
        return float(total)

    extra = multiplied(model_of(name)) - multiplied(GraftModel(Network(SPEC), (), Classification(), LABELS))
    counted = adapter_forward(model_of(name), 4, 8).flops
    assert 0.6 * counted <= extra <= 1.4 * counted or extra == 0, "the rest is elementwise, or small"
