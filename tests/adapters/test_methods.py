"""One suite that every method inherits, and each method against its formula written by hand.

A new method adds a row to `METHODS` and a formula; the suite then checks identity at the start,
gradients, padding, a bank against single adapters, merging, and the work it counts.
"""

from __future__ import annotations

from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.costs import adapter_forward
from adapters.hooks import GraftHooks
from adapters.merging import merge
from adapters.methods.dora import DoraMethod
from adapters.methods.method import Call, Kernel
from adapters.methods.vera import draw_projections
from adapters.model import GraftModel
from adapters.specs import (
    IA3,
    SSF,
    Bias,
    Bottleneck,
    Classification,
    Dora,
    Ladder,
    Lora,
    LoraOverride,
    MultiLabel,
    Norm,
    Prefix,
    Probe,
    Regression,
    Router,
    TokenTagging,
    Vera,
)
from backbone.buckets import pad
from backbone.encoder import Network
from backbone.errors import InputError
from backbone.trees import count, flatten, map_leaves, unflatten
from tests import reference
from tests.tiny import SPEC, random_params

METHODS = {
    "lora": Lora(rank=4),
    "lora everywhere": Lora(rank=3, sites=("*/attention/*", "mlp/*"), scaling="rank_stabilised"),
    "lora overrides": Lora(rank=4, overrides=(LoraOverride("attention/value", rank=2, alpha=7.0),), blocks="1:"),
    "houlsby": Bottleneck(width=5, placement="houlsby"),
    "pfeiffer": Bottleneck(width=5, placement="pfeiffer", activation="gelu"),
    "parallel": Bottleneck(width=5, placement="parallel", scale=4.0),
    "ia3": IA3(),
    "ia3 attention": IA3(scale_outputs=("attention/query",), scale_inputs=("attention/output", "attention/value")),
    "dora": Dora(rank=3),
    "dora everywhere": Dora(rank=2, sites=("attention/*", "mlp/*"), scaling="rank_stabilised", blocks="2:"),
    "vera": Vera(rank=16),
    "vera of two widths": Vera(rank=8, sites=("attention/key", "mlp/*"), seed=7, blocks=":1"),
    "ssf": SSF(),
    "bias": Bias(),
    "norm": Norm(),
    "norm of some": Norm(sites=("0/attention/norm", "2/mlp/norm")),
    "prefix": Prefix(length=3),
    "router": Router(experts=3, top=2, rank=2),
    "router to one": Router(experts=2, top=1, rank=2, sites=("attention/output", "mlp/up"), blocks="2:"),
    "probe": Probe(),
    "probe everywhere": Probe(boundaries=()),
    "ladder": Ladder(reduction=4),
    "ladder top": Ladder(reduction=2, blocks="1:"),
}
SITE = [name for name, spec in METHODS.items() if not isinstance(spec, (Probe, Ladder))]
UNMERGEABLE = [name for name in SITE if isinstance(METHODS[name], (Bottleneck, Prefix, Router))]
MERGEABLE = [name for name in SITE if name not in UNMERGEABLE]
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


def nonzero(model: GraftModel, seed: int = 0, size: float = 0.3):
    """Parameters in which nothing is at its start."""
    draw = np.random.default_rng(seed)
    leaves = flatten(model.init(jax.random.key(seed)))
    return unflatten({p: jnp.asarray(x + size * draw.normal(size=x.shape), jnp.float32) for p, x in leaves.items()})


@pytest.mark.parametrize("name", METHODS)
def test_at_the_start_the_graft_is_exactly_the_plain_backbone(name, backbone, inputs):
    model = model_of(name)
    plain = GraftModel(Network(SPEC), (), Classification(), LABELS).features(backbone, {}, inputs)
    params = model.init(jax.random.key(0))
    found = model.features(backbone, params["adapter"], inputs)
    if all(method.identity_at_start for method, _ in model.site_parts.values()):
        np.testing.assert_array_equal(found[:, -SPEC.width :], plain)
    else:
        assert isinstance(METHODS[name], Prefix), "every other method starts as the identity"
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


@pytest.mark.parametrize("name", SITE)
def test_a_bank_equals_each_adapter_alone(name, backbone, inputs):
    """Three adapters on a leading slot axis, slot 0 the identity; rows choose."""
    model = model_of(name)
    start = model.init(jax.random.key(0))
    slots = [start, nonzero(model, 1), nonzero(model, 2)]
    bank = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slots)
    chosen = jnp.array([2, 0, 1, 2])
    found = model.logits(backbone, bank, inputs, slots=chosen)
    for row, slot in enumerate(chosen.tolist()):
        expected = model.logits(backbone, slots[slot], inputs)[row]
        np.testing.assert_allclose(found[row], expected, atol=2e-5)


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
    with pytest.raises(InputError, match=rf"{METHODS[name].method}: cannot be merged into the weights at [02]/"):
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


@pytest.mark.parametrize("spec", [Lora(dropout=0.5), Dora(dropout=0.5), Router(dropout=0.5), Bottleneck(dropout=0.5)])
def test_dropout_acts_only_with_a_key(spec, backbone, inputs):
    model = GraftModel(Network(SPEC), (spec,), Classification(), LABELS)
    params = nonzero(model)
    calm = model.logits(backbone, params, inputs)
    np.testing.assert_array_equal(calm, model.logits(backbone, params, inputs))
    noisy = [model.logits(backbone, params, inputs, rng=jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-4
    assert np.abs(noisy[0] - calm).max() > 1e-4


# ---- formulas by hand, in numpy -------------------------------------------------------------------


def by_hand(spec, adapter, settings):
    """Sites for `reference.block`, from the papers' equations."""
    sites: dict[int, dict] = {}
    for site in settings:
        p = {k: np.asarray(v) for k, v in adapter[spec.method][str(site.block)][site.name].items()}
        sites.setdefault(site.block, {})[site.name] = formula(spec, site, p)
    return sites


def formula(spec, site, p):
    if isinstance(spec, Dora):
        s = spec.alpha / (sqrt(spec.rank) if spec.scaling == "rank_stabilised" else spec.rank)

        def dora(x, w, b):
            v = w + s * p["a"] @ p["b"]
            length = lambda matrix: np.sqrt((matrix**2).sum(0))  # noqa: E731
            return x @ (p["magnitude"] * length(w) * v / length(v)) + b

        return dora
    if isinstance(spec, Vera):
        widest = SPEC.mlp_width if "mlp/*" in spec.sites else SPEC.width
        shared_a, shared_b = draw_projections(spec.rank, widest, widest, spec.seed)
        shared_a, shared_b = shared_a[: site.inputs], shared_b[:, : site.outputs]
        return lambda x, w, b: x @ w + b + ((x @ shared_a) * p["d"]) @ shared_b * p["b"]
    if isinstance(spec, Norm):
        return lambda s, b: (s + p["scale"], b + p["bias"])
    if isinstance(spec, Bias):
        if site.name.endswith("norm"):
            return lambda s, b: (s, b + p["delta"])
        return lambda x, w, b: x @ w + (b + p["delta"])
    if isinstance(spec, SSF):
        if site.name.endswith("norm"):
            return lambda s, b: (s * p["scale"], b * p["scale"] + p["shift"])
        return lambda x, w, b: (x @ w + b) * p["scale"] + p["shift"]
    if isinstance(spec, Prefix):
        return lambda k, v: (np.concatenate([p["key"], k]), np.concatenate([p["value"], v]))
    if isinstance(spec, Router):

        def routed(x, w, b):
            chance = reference.softmax(x[0] @ p["gate"])
            best = np.argsort(-chance)[: spec.top]
            experts = [chance[e] * x @ p["a"][e] @ p["b"][e] for e in best]
            return x @ w + b + spec.alpha / spec.rank * sum(experts)

        return routed
    if isinstance(spec, Lora):
        override = next((o for o in spec.overrides if o.sites == site.name), None)
        rank, alpha = (override.rank, override.alpha) if override else (spec.rank, spec.alpha)
        assert p["a"].shape == (site.inputs, rank)
        scale = alpha / (sqrt(rank) if spec.scaling == "rank_stabilised" else rank)
        return lambda x, w, b: x @ w + b + scale * x @ p["a"] @ p["b"]
    if isinstance(spec, IA3):
        if site.name in spec.scale_outputs:
            return lambda x, w, b: (x @ w + b) * p["scale"]
        return lambda x, w, b: (x * p["scale"]) @ w + b
    act = {"relu": lambda v: np.maximum(v, 0), "gelu": reference.gelu}[spec.activation]

    def f(h):
        return act(h @ p["down"] + p["down_bias"]) @ p["up"] + p["up_bias"]

    return (lambda x, y: y + spec.scale * f(x)) if spec.placement == "parallel" else (lambda x, y: y + f(y))


@pytest.mark.parametrize("name", SITE)
def test_site_methods_equal_their_formula(name, backbone, inputs):
    model = model_of(name)
    adapter = nonzero(model)["adapter"]
    ((_, settings),) = model.site_parts.values()
    network, host = Network(SPEC), map_leaves(np.asarray, backbone)
    hooks = GraftHooks(model.site_parts, adapter)
    hidden = network.run_blocks(backbone, network.embed(backbone, inputs), inputs["mask"], hooks)
    sites = by_hand(METHODS[name], adapter, settings)
    for i in range(4):
        row = np.asarray(inputs["ids"][i])[np.asarray(inputs["mask"][i])]
        expected = reference.states(host, row, SPEC, sites)[-1]
        np.testing.assert_allclose(hidden[i, : len(row)], expected, atol=1e-4)


def test_probe_features_are_pooled_states(backbone, inputs):
    host = map_leaves(np.asarray, backbone)
    model = model_of("probe everywhere")
    found = model.features(backbone, {"probe": {}}, inputs)
    for i in range(4):
        row = np.asarray(inputs["ids"][i])[np.asarray(inputs["mask"][i])]
        expected = np.concatenate([state.mean(0) for state in reference.states(host, row, SPEC)])
        np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_ladder_equals_its_formula(backbone, inputs):
    host = map_leaves(np.asarray, backbone)
    model = model_of("ladder top")
    spec = METHODS["ladder top"]
    adapter = nonzero(model)["adapter"]
    p = map_leaves(np.asarray, adapter["ladder"])
    from adapters.methods.ladder import side_encoder

    side_spec = side_encoder(spec, SPEC)
    assert (side_spec.width, side_spec.blocks) == (16, 2)
    found = model.features(backbone, adapter, inputs)
    for i in range(4):
        row = np.asarray(inputs["ids"][i])[np.asarray(inputs["mask"][i])]
        states = reference.states(host, row, SPEC)
        side = 0.0
        for rung, tap in enumerate((2, 3)):
            gate = 1 / (1 + np.exp(-p["down"][str(tap)]["gate"]))
            side = gate * states[tap] @ p["down"][str(tap)]["kernel"] + (1 - gate) * side
            side = reference.block(p["blocks"][str(rung)], side, side_spec)
        expected = (states[-1] + side @ p["up"]["kernel"]).mean(0)
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


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


def test_dora_starts_as_the_identity_in_a_compiled_program_and_survives_an_empty_unit(backbone):
    """A column of zeros has no direction: it stays zero, without a NaN."""
    model = model_of("dora")
    method, settings = model.site_parts["dora"]
    site = next(iter(settings))
    assert isinstance(method, DoraMethod)
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
