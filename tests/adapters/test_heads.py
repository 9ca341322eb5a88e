"""Heads, poolings, pairs and tags against formulas written by hand; what a head is asked, and what it answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities

from adapters.artefact.manifest import Training
from adapters.artefact.read import read_graft
from adapters.artefact.write import save_graft
from adapters.costs import forward
from adapters.graft import Graft, load_graft
from adapters.heads import head_of
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, MultiLabel, Regression, TokenTagging
from adapters.tagging import NO_TAG, entities, fault, spans
from backbone.buckets import Sides, pad
from backbone.encoder import Network
from backbone.errors import InputError
from backbone.trees import flatten, map_leaves, unflatten
from tests import reference
from tests.tiny import SPEC, WORDS, random_params

LABELS = ("a", "b", "c")
TAGS = ("B-x", "B-y", "I-x", "I-y", "O")
SIZES = (3, 5, 2, 7)


@pytest.fixture(scope="module")
def backbone():
    return jax.device_put(random_params())


@pytest.fixture(scope="module")
def sides():
    draw = np.random.default_rng(3)
    return [draw.integers(5, SPEC.vocabulary, n).astype(np.int32) for n in SIZES]


def model_of(head, *methods, labels=LABELS) -> GraftModel:
    return GraftModel(Network(SPEC), methods, head, labels)


def nonzero(model: GraftModel, seed: int = 0):
    draw = np.random.default_rng(seed)
    leaves = flatten(model.abstract())
    return unflatten({p: jnp.asarray(0.3 * draw.normal(size=x.shape), jnp.float32) for p, x in leaves.items()})


def inputs_of(rows):
    ids, mask = pad(rows, 8)
    return {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}


def last_state(backbone, row):
    return reference.states(map_leaves(np.asarray, backbone), row, SPEC)[-1]


def test_attention_pooling_equals_its_formula_and_begins_as_the_mean(backbone, sides):
    model = model_of(Classification(pooling="attention"))
    inputs = inputs_of(sides)
    params = nonzero(model)
    query = np.asarray(params["head"]["query"])
    found = model.features(backbone, {}, inputs, head=params["head"])
    start = model.features(backbone, {}, inputs, head=model.init(jax.random.key(0))["head"])
    mean = model.features(backbone, {}, inputs)
    np.testing.assert_allclose(start, mean, atol=1e-6)
    assert np.abs(found - mean).max() > 1e-3
    for i, row in enumerate(sides):
        state = last_state(backbone, row)
        shares = np.exp(state @ query / np.sqrt(SPEC.width))
        np.testing.assert_allclose(found[i], shares / shares.sum() @ state, atol=2e-5)


@pytest.mark.parametrize("pair", ["two_tower", "cosine"])
def test_pairs_encoded_apart_equal_their_formula(pair, backbone, sides):
    model = model_of(Classification(pair=pair))
    rows = [Sides(sides[0], sides[1]), Sides(sides[3], sides[2])]
    found = model.features(backbone, {}, inputs_of(rows))
    for i, row in enumerate(rows):
        u, v = (last_state(backbone, side).mean(0) for side in (row.first, row.second))
        wanted = np.concatenate([u, v, np.abs(u - v), u * v])
        if pair == "cosine":
            wanted = np.array([u @ v / np.linalg.norm(u) / np.linalg.norm(v)])
        np.testing.assert_allclose(found[i], wanted, atol=5e-5)
    assert found.shape == (2, model.feature_width)
    assert forward(model, 2, 8).flops > 1.9 * forward(model_of(Classification()), 2, 8).flops


@pytest.mark.parametrize(
    "head", [Classification(pooling="attention", pair="two_tower"), Regression(), TokenTagging()], ids=lambda h: h.kind
)
def test_a_bank_equals_each_graft_alone(head, backbone, sides):
    model = model_of(head, Lora(rank=2, blocks="2:"), labels=("a",) if isinstance(head, Regression) else LABELS)
    rows = sides if model.sides == 1 else [Sides(sides[i], sides[-i - 1]) for i in range(4)]
    inputs = inputs_of(rows)
    slots = [model.init(jax.random.key(0)), nonzero(model, 1), nonzero(model, 2)]
    bank = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slots)
    found = model.logits(backbone, bank, inputs, slots=jnp.array([2, 0, 1, 2]))
    alone = [model.logits(backbone, slot, inputs) for slot in slots]
    for row, slot in enumerate((2, 0, 1, 2)):
        np.testing.assert_allclose(found[row], alone[slot][row], atol=3e-5)


def test_a_pair_read_as_one_row_has_segments(backbone, sides):
    """The state of a token differs by its segment's embedding, as the paper adds it."""
    row = np.stack([sides[3], np.arange(7) >= 4], axis=1).astype(np.int32)
    found = Network(SPEC).embed(backbone, inputs_of([row]))[0, :7]
    e = map_leaves(np.asarray, backbone["embeddings"])
    x = e["token"][sides[3]] + e["position"][:7] + e["segment"][row[:, 1]]
    wanted = reference.norm(x, e["norm"]["scale"], e["norm"]["bias"], SPEC.norm_epsilon)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - Network(SPEC).embed(backbone, inputs_of([sides[3]]))[0, :7]).max() > 1e-3


def test_tags_are_read_from_every_state(backbone, sides):
    model = model_of(TokenTagging(), labels=TAGS)
    params = nonzero(model)
    logits = model.logits(backbone, params, inputs_of(sides))
    assert logits.shape == (4, 8, 5)
    kernel, bias = np.asarray(params["head"]["kernel"]), np.asarray(params["head"]["bias"])
    labels = np.full((4, 8), NO_TAG, np.int32)
    wanted = []
    for i, row in enumerate(sides):
        own = last_state(backbone, row) @ kernel + bias
        np.testing.assert_allclose(logits[i, : len(row)], own, atol=5e-5)
        labels[i, 1 : len(row) : 2] = i
        scaled = own - np.log(np.exp(own).sum(-1, keepdims=True))
        wanted.append(-np.mean([scaled[t, i] for t in range(1, len(row), 2)]))
    np.testing.assert_allclose(head_of(model.head).loss(logits, labels), wanted, atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [Classification(pooling="attention"), Regression(pair="cosine"), MultiLabel(pair="two_tower"), TokenTagging()],
    ids=lambda h: h.kind,
)
def test_gradients_reach_every_leaf(head, backbone, sides):
    model = model_of(head, Lora(rank=2, blocks="2:"))
    inputs = inputs_of(sides)
    gradient = jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(nonzero(model))
    for path, leaf in flatten(gradient).items():
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"
        assert np.isfinite(leaf).all()


def test_spans_are_those_of_seqeval_whatever_the_tags():
    draw = np.random.default_rng(0)
    for _ in range(300):
        tags = [str(t) for t in draw.choice(["O", "B-x", "I-x", "B-y", "I-y", "I-z-1", "B-z-1"], draw.integers(0, 9))]
        assert spans(tags) == [(kind, start, end + 1) for kind, start, end in get_entities(tags)], tags


def test_what_is_no_bio_tag():
    assert not fault("O", "I-x")
    assert not fault("B-x", "I-y")
    assert not fault("I-x", "B-x")
    assert "opens with 'B-x'" in fault("I-x", "B-y")
    assert "opens with 'B-x'" in fault("I-x", "O")
    for tag in ("x", "B", "B-", "E-x", ""):
        assert "is no BIO tag" in fault(tag, "O")
    assert entities(["to", "new", "york"], ["O", "B-city", "I-city"])[0].text == "new york"


HEADS = {
    "regression": (Regression(pair="cross", center=3.0, spread=2.0), ("score",)),
    "two towers": (MultiLabel(pooling="attention", pair="two_tower"), LABELS),
    "tagging": (TokenTagging(), TAGS),
}
NOTHING = Training(config={}, seeds={}, data={}, metrics={}, costs={}, versions={})


@pytest.mark.parametrize("name", HEADS)
def test_stored_loaded_and_asked(name, tiny, tmp_path):
    head, labels = HEADS[name]
    model = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), head, labels)
    params = map_leaves(np.asarray, nonzero(model))
    save_graft(tmp_path / "graft", model, params, tiny, name="x", max_tokens=16, training=NOTHING)
    graft = load_graft(tmp_path / "graft", tiny)
    assert (graft.model.head, graft.model.labels) == (head, labels)
    canary = read_graft(tmp_path / "graft")[2]
    assert canary["ids"].shape == ((8, 16, 2) if name == "regression" else (8, 16))

    before = Graft(model, params, tiny, 16)
    words = WORDS[:3] + WORDS[30:40]
    texts = {
        "regression": [("ban ben", "bin"), ("bin", "ban ben")],
        "two towers": [("ban ben", "bin"), ("bin", "ban ben")],
        "tagging": [" ".join(words[:3]), words * 2],
    }[name]
    answers = graft.predict(texts)
    assert answers == before.predict(texts)
    if name == "regression":
        logits = before.logits(texts)
        assert [a.value for a in answers] == pytest.approx([3 + 2 * float(x) for x in logits[:, 0]], abs=1e-5)
        assert abs(answers[0].value - answers[1].value) > 1e-4, "the order of a pair's sides matters"
    elif name == "two towers":
        assert set(answers[0].probabilities) == set(LABELS)
    else:
        assert [len(a.labels) for a in answers] == [3, 26]
        assert answers[1].labels[14:] == ("O",) * 12, "beyond 16 tokens, two of them special"
        assert answers[0].entities == entities(words[:3], answers[0].labels)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("regression", "ban", r"texts\[0\]: expected a pair of texts, \(str, str\), got str"),
        ("regression", ("ban", " "), r"texts\[0\]\[1\]: this side of the pair is missing"),
        ("regression", ("ban",), "expected a pair"),
        ("tagging", ["ban", "b n"], "'b n' is no word"),
        ("tagging", 3, "expected a str or a list of words, got int"),
    ],
)
def test_questions_that_fit_no_head(name, text, message, tiny):
    head, labels = HEADS[name]
    model = GraftModel(tiny.network, (), head, labels)
    graft = Graft(model, map_leaves(np.asarray, nonzero(model)), tiny, 16)
    with pytest.raises(InputError, match=message):
        graft.predict([text])
