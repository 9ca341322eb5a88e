"""One suite for every head of the registry, and formulas written by hand.

A head is tested by its `example()` on the example cells of its column. A head that comes with Topgraft has its formula
in a file of `tests/adapters/head_formulas`; a test fails until it does.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.artefact.manifest import Training
from adapters.artefact.read import read_graft
from adapters.artefact.write import save_graft
from adapters.graft import Graft, load_graft
from adapters.heads.columns import Layout
from adapters.heads.head import Head, kinds_for
from adapters.inputs import checked
from adapters.labels.tagging import entities
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, MultiLabel, Regression, TokenTagging
from backbone.buckets import Sides, pad
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.records import decode, encode
from backbone.trees import flatten, map_leaves, unflatten
from backbone.variants.registered import load_folder, own_file, variants
from tests import reference
from tests.tiny import SPEC, WORDS, random_params
from trainers.config import Data
from trainers.fitting.linear_head import fit_linear, fitted_labels, shrunk_head, vector_model
from trainers.scoring.metrics import gather

KINDS = [kind for kind, cls in variants(Head).items() if not own_file(cls)]
FORMULAS = {module.__name__.rsplit(".", 1)[-1]: module for module in load_folder("tests.adapters.head_formulas")}
LABELS = ("a", "b", "c")
TAGS = ("B-x", "B-y", "I-x", "I-y", "O")
SIZES = (3, 5, 2, 7)
DATA = Data()
NOTHING = Training(config={}, seeds={}, data={}, metrics={}, costs={}, versions={})


@pytest.fixture(scope="module")
def backbone():
    return jax.device_put(random_params())


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(3)
    return [draw.integers(5, SPEC.vocabulary, n).astype(np.int32) for n in SIZES]


@dataclass(frozen=True)
class Task:
    """The example of a head, with rows: encoded labels and logits."""

    head: Head
    names: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray

    def model(self, *methods) -> GraftModel:
        return GraftModel(Network(SPEC), methods, self.head, self.names)


def task_of(kind: str, repeat: int = 12, seed: int = 0) -> Task:
    """The example cells of the head's column, several times over, with logits drawn at random."""
    head = variants(Head)[kind].example()
    column, cells = head.column, [cell for _ in range(repeat) for cell in head.column.cells]
    parsed = [column.parse(cell, DATA, "cells:1") for cell in cells]
    names = column.names(parsed, DATA)
    head = head.with_statistics_of(parsed)
    layout = None
    if column.labels_per == "word":
        layout = Layout([np.arange(1, 2 * len(labels) + 1, 2) for labels in parsed], tokens=8)
    labels = head.encode(parsed, names, ["cells:1"] * len(cells), layout)
    axes = (len(cells), len(names)) if head.one_answer_per == "row" else (len(cells), 8, len(names))
    return Task(head, names, labels, np.random.default_rng(seed).normal(size=axes).astype(np.float32))


def nonzero(model: GraftModel, seed: int = 0):
    draw = np.random.default_rng(seed)
    leaves = flatten(model.abstract())
    return unflatten({p: jnp.asarray(0.3 * draw.normal(size=x.shape), jnp.float32) for p, x in leaves.items()})


def inputs_of(rows):
    ids, mask = pad(rows, 8)
    return {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)}


# The suite


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_that_a_column_writes_is_read_as_the_same_labels(kind):
    column = variants(Head)[kind].example().column
    labels = [column.parse(cell, DATA, "cells:1") for cell in column.cells]
    written = [json.loads(json.dumps(column.cell(one, DATA))) for one in labels]
    assert [column.parse(cell, DATA, "cells:1") for cell in written] == labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_survives_its_json_and_is_told_by_its_tag(kind):
    head = variants(Head)[kind].example()
    values = encode(head)
    assert next(iter(values.items())) == ("kind", kind)
    assert decode(Head, json.loads(json.dumps(values))) == head
    assert hash(decode(Head, values)) == hash(head), "a compiled program is kept by its head"
    with pytest.raises(InputError, match="dropout: must be at least 0 and below 1"):
        decode(Head, values | {"dropout": 1.0})
    assert head.column.labels_per == ("word" if head.one_answer_per == "word" else "row")


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_counted_and_merged_in_any_order(kind):
    task = task_of(kind)
    counts = gather(task.model(), task.logits, task.labels)
    metrics = counts.compute()
    assert {*task.head.metrics, "loss"} <= metrics.keys()
    parts = [
        gather(task.model(), task.logits[part], task.labels[part])
        for part in np.array_split(np.arange(len(task.labels)), 3)
    ]
    merged = functools.reduce(lambda a, b: a.merge(b), reversed(parts)).compute()
    assert merged == pytest.approx(metrics, rel=1e-6, abs=1e-6)
    assert metrics["loss"] == pytest.approx(float(np.mean(task.head.loss(task.logits, task.labels))), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_on_the_host_is_that_of_training(kind):
    task = task_of(kind, seed=1)
    logits = 5 * task.logits
    losses = task.head.host_loss(logits, task.labels)
    assert losses.shape == (len(task.labels),)
    np.testing.assert_allclose(losses, jax.jit(task.head.loss)(logits, task.labels), rtol=1e-5, atol=1e-5)
    assert losses.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_same_on_the_host_and_in_a_program(kind):
    task = task_of(kind)
    logits = np.concatenate([task.logits, 200 * np.sign(task.logits)])
    probabilities = task.head.probabilities(logits)
    assert (type(probabilities), probabilities.dtype) == (np.ndarray, np.float32)
    np.testing.assert_allclose(jax.jit(task.head.probabilities)(logits), probabilities, atol=1e-6)
    assert np.isfinite(probabilities).all()
    decided = np.asarray(task.head.decide(probabilities), float)
    exported = np.asarray(jax.jit(task.head.exported)(logits))
    np.testing.assert_allclose(exported, decided if task.head.output == "value" else probabilities, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_equals_each_graft_alone(kind, backbone, rows):
    model = task_of(kind).model(Lora(rank=2, blocks="2:"))
    inputs = inputs_of(rows)
    slots = [model.init(jax.random.key(0)), nonzero(model, 1), nonzero(model, 2)]
    bank = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slots)
    logits = model.logits(backbone, bank, inputs, slots=jnp.array([2, 0, 1, 2]))
    alone = [model.logits(backbone, slot, inputs) for slot in slots]
    assert not np.any(alone[0]), "a fresh head answers with zeros"
    for row, slot in enumerate((2, 0, 1, 2)):
        np.testing.assert_allclose(logits[row], alone[slot][row], atol=3e-5)
    assert np.abs(alone[1] - alone[2]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_loss_reach_every_leaf(kind, backbone, rows):
    task = task_of(kind)
    model, inputs, labels = task.model(Lora(rank=2, blocks="2:")), inputs_of(rows), task.labels[: len(rows)]
    gradient = jax.grad(lambda p: task.head.loss(model.logits(backbone, p, inputs), labels).sum())(nonzero(model))
    for path, leaf in flatten(gradient).items():
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_of_its_vectors_learns_what_they_betray(kind):
    """Features that say which labels a row has.

    A shrunk head is far from no weights, and on the way to a tight fit. Losses need not fall to zero.
    """
    task = task_of(kind)
    model, metric = vector_model(task.model(), task.head.metrics[0])
    labels = fitted_labels(task.model(), task.labels)
    distinct, which = np.unique(labels.reshape(len(labels), -1), axis=0, return_inverse=True)
    vectors = np.eye(len(distinct), dtype=np.float32)[which.ravel()]

    def loss(head, scale: float = 1.0) -> float:
        return float(model.head.host_loss(scale * (vectors @ head["kernel"] + head["bias"]), labels).mean())

    shrunk = shrunk_head(model, vectors, labels)
    tight = fit_linear(model, vectors, labels, None, metric, (1e-4,)).head
    fall = loss(shrunk, 0.0) - loss(tight)
    assert fall > 0.05 * abs(loss(shrunk, 0.0))
    assert loss(shrunk, 0.0) - loss(shrunk) > 0.3 * fall
    assert gather(model, vectors @ tight["kernel"] + tight["bias"], labels).compute()[metric] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_head_supports_it_can(kind):
    task = task_of(kind)
    head, column, classes = task.head, task.head.column, len(task.names)
    numbers = list(range(classes))
    assert column.carries(task.labels, numbers).any()
    assert not column.carries(task.labels, []).any()
    if "out_of_scope" in head.supports:
        shares = column.shares(task.labels, classes)
        assert shares.shape == (len(task.labels), classes + 1)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        for number in numbers:
            np.testing.assert_array_equal(shares[:, number] > 0, column.carries(task.labels, [number]))
    if "retrain" in head.supports:
        answer = column.majority(task.labels, classes)
        decided = head.decide(head.probabilities(head.sure_logits(answer)[None]))
        np.testing.assert_array_equal(head.chosen(decided)[0], np.flatnonzero(answer))
    if "bank" in head.supports:
        assert set(task.model().abstract()["head"]) == {"kernel", "bias"}
    assert ("pairs" in head.supports) == ("pair" in encode(head))


@pytest.mark.parametrize("kind", KINDS)
def test_stored_loaded_and_asked(kind, tiny, tmp_path):
    task = task_of(kind)
    model = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), task.head, task.names)
    params = map_leaves(np.asarray, nonzero(model))
    save_graft(tmp_path / "graft", model, params, tiny, name="x", max_tokens=16, training=NOTHING)
    graft = load_graft(tmp_path / "graft", tiny)
    assert (graft.model.head, graft.model.labels) == (task.head, task.names)
    texts = [" ".join(WORDS[:3]), " ".join((WORDS[:3] + WORDS[30:40]) * 2)]
    answers = graft.predict(texts)
    assert answers == Graft(model, params, tiny, 16).predict(texts)
    assert answers[0] != answers[1]
    facts = json.loads(json.dumps([task.head.facts(answer, top=2) for answer in answers]))
    assert facts[0] != facts[1]
    assert len(facts[0].get("probabilities", {})) <= 2


# The formulas


def test_every_head_has_a_formula():
    assert FORMULAS.keys() == set(KINDS), "tests/adapters/head_formulas holds one file for each head"


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_probabilities_equal_their_formula(kind):
    task = task_of(kind)
    losses, probabilities = task.head.host_loss(task.logits, task.labels), task.head.probabilities(task.logits)
    for i, (logits, label) in enumerate(zip(task.logits, task.labels, strict=True)):
        loss, expected = FORMULAS[kind].formula(logits, label)
        assert losses[i] == pytest.approx(loss, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(probabilities[i], expected, rtol=1e-5)


def test_tags_are_read_from_every_state(backbone, rows):
    model = GraftModel(Network(SPEC), (), TokenTagging(), TAGS)
    params = nonzero(model)
    logits = model.logits(backbone, params, inputs_of(rows))
    assert logits.shape == (4, 8, 5)
    kernel, bias = np.asarray(params["head"]["kernel"]), np.asarray(params["head"]["bias"])
    for i, row in enumerate(rows):
        state = reference.states(map_leaves(np.asarray, backbone), row, SPEC)[-1]
        np.testing.assert_allclose(logits[i, : len(row)], state @ kernel + bias, atol=5e-5)


# Poolings and pairs together with heads


def test_a_bank_of_pairs_pooled_by_attention_equals_each_graft_alone(backbone, rows):
    head = Classification(pooling="attention", pair="two_tower")
    model = GraftModel(Network(SPEC), (Lora(rank=2, blocks="2:"),), head, LABELS)
    inputs = inputs_of([Sides(rows[i], rows[-i - 1]) for i in range(4)])
    slots = [nonzero(model, seed) for seed in range(3)]
    bank = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slots)
    logits = model.logits(backbone, bank, inputs, slots=jnp.array([2, 0, 1, 2]))
    for row, slot in enumerate((2, 0, 1, 2)):
        np.testing.assert_allclose(logits[row], model.logits(backbone, slots[slot], inputs)[row], atol=3e-5)


@pytest.mark.parametrize(
    "head",
    [Classification(pooling="attention"), Regression(pair="cosine"), MultiLabel(pair="two_tower")],
    ids=lambda head: head.kind,
)
def test_gradients_reach_queries_and_sides(head, backbone, rows):
    model = GraftModel(Network(SPEC), (Lora(rank=2, blocks="2:"),), head, LABELS)
    inputs = inputs_of(rows)
    gradient = jax.grad(lambda p: jnp.square(model.logits(backbone, p, inputs)).sum())(nonzero(model))
    for path, leaf in flatten(gradient).items():
        assert np.abs(leaf).max() > 0, f"{path} has no gradient"


PAIRS = {
    "regression": (Regression(pair="cross", center=3.0, spread=2.0), ("score",)),
    "two towers": (MultiLabel(pooling="attention", pair="two_tower"), LABELS),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_stored_loaded_and_asked(name, tiny, tmp_path):
    head, labels = PAIRS[name]
    model = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), head, labels)
    params = map_leaves(np.asarray, nonzero(model))
    save_graft(tmp_path / "graft", model, params, tiny, name="x", max_tokens=16, training=NOTHING)
    graft = load_graft(tmp_path / "graft", tiny)
    assert (graft.model.head, graft.model.labels) == (head, labels)
    canary = read_graft(tmp_path / "graft")[2]
    assert canary["ids"].shape == ((8, 16, 2) if name == "regression" else (8, 16))
    texts, before = [("ban ben", "bin"), ("bin", "ban ben")], Graft(model, params, tiny, 16)
    answers = graft.predict(texts)
    assert answers == before.predict(texts)
    if name == "regression":
        logits = before.logits(texts)
        assert [a.value for a in answers] == pytest.approx([3 + 2 * float(x) for x in logits[:, 0]], abs=1e-5)
        assert abs(answers[0].value - answers[1].value) > 1e-4, "the order of a pair's sides matters"
    else:
        assert set(answers[0].probabilities) == set(LABELS)


def test_words_beyond_the_cut_are_outside(tiny):
    model = GraftModel(tiny.network, (), TokenTagging(), TAGS)
    words = WORDS[:3] + WORDS[30:40]
    answers = Graft(model, map_leaves(np.asarray, nonzero(model)), tiny, 16).predict([" ".join(words[:3]), words * 2])
    assert [len(a.labels) for a in answers] == [3, 26]
    assert answers[1].labels[14:] == ("O",) * 12, "beyond 16 tokens, two of them special"
    assert answers[0].entities == entities(words[:3], answers[0].labels)


@pytest.mark.parametrize(
    ("head", "text", "message"),
    [
        (Regression(pair="cross"), "ban", r"texts\[0\]: expected a pair of texts, \(str, str\), got str"),
        (Regression(pair="cross"), ("ban", " "), r"texts\[0\]\[1\]: this side of the pair is missing"),
        (Regression(pair="cross"), ("ban",), "expected a pair"),
        (TokenTagging(), ["ban", "b n"], "'b n' is no word"),
        (TokenTagging(), 3, "expected a str or a list of words, got int"),
    ],
)
def test_questions_that_fit_no_head(head, text, message, tiny):
    model = GraftModel(tiny.network, (), head, TAGS)
    graft = Graft(model, map_leaves(np.asarray, nonzero(model)), tiny, 16)
    with pytest.raises(InputError, match=message):
        graft.predict([text])


def test_kinds_for_messages():
    assert kinds_for("retrain") == "classification, multi_label or tasks"
    assert kinds_for("export", ", ") == "classification, multi_label, regression"
    assert kinds_for("early_exits") == "classification or multi_label"
    assert kinds_for("peft") == "classification, multi_label, regression or token_tagging"


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (Classification(), "caf\udce9"),
        (Classification(pair="cross"), ("a", "\ud83d")),
        (TokenTagging(), ["a", "\ud83d"]),
        (TokenTagging(), "a caf\udce9"),
    ],
)
def test_what_is_asked_must_be_unicode(head, text, tiny):
    with pytest.raises(InputError, match=r"texts\[0\].*: '.*' is no Unicode text .*half a surrogate pair"):
        checked(head, tiny, [text])
