"""What `train-backbone` does with text: paragraphs to sequences, masks, loss and step, by hand and by the compiler."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.preprocessing import TextPreprocessing
from backbone.trees import flatten
from tests import reference
from tests.tiny import SPEC, preprocessing_of, random_params, tokenizer_json
from tests.trainers.pretraining.backbone_runs import first_params, paragraphs
from trainers.fitting.step import first_state, partition, step_of
from trainers.pretraining.config import BackboneConfig, Corpus, MaskedTokens, WordPiece
from trainers.pretraining.corpus import pack, read_text, roles_of, unigram_entropy
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material

SHALLOW = replace(SPEC, blocks=1)


def test_paragraphs_keep_their_side_and_are_packed_without_padding(tmp_path):
    texts = paragraphs(300)
    (tmp_path / "a.txt").write_text("\ufeff" + "\n \n".join(text.replace(" ", "\n", 1) for text in texts))
    corpus = Corpus(files=(str(tmp_path),), tokens=16, held_out_fraction=0.2)
    text = read_text(corpus)
    assert sorted(text.train + text.held_out) == sorted(texts)
    assert 20 < len(text.held_out) < 110
    (tmp_path / "b.txt").write_text("\n\n".join(paragraphs(50, seed=5)))
    assert set(text.held_out) <= set(read_text(corpus).held_out)

    preprocessing = WordPiece(vocabulary=120).tokenizer(text.train, 16)
    roles = roles_of(preprocessing, needs_mask=True)
    sequences = pack(text, preprocessing, roles, 16)
    ids = {word: preprocessing.encode([word])[0][1:-1].tolist() for word in {w for t in texts for w in t.split()}}
    stream = [i for line in text.train for i in [*(i for word in line.split() for i in ids[word]), 3]]
    assert (sequences.train[:, 0] == 2).all()
    assert (sequences.train[:, -1] == 3).all()
    np.testing.assert_array_equal(sequences.train[:, 1:-1].ravel(), stream[: len(stream) // 14 * 14])
    counts = np.unique(sequences.held_out[~np.isin(sequences.held_out, (0, 2, 3))], return_counts=True)[1]
    assert unigram_entropy(sequences.held_out, roles.special) == pytest.approx(
        np.log(counts.sum()) - (counts * np.log(counts)).sum() / counts.sum()
    )


def test_the_words_of_a_rare_letter_are_unknown():
    made = WordPiece(vocabulary=60).tokenizer(["ab abc bca Ñab ab"] * 4 + ["b ab\u03b1 c"] * 6, 16)
    assert made.encode(["\u03b1"])[0][1] != 1
    assert made.encode(["\u03b2"])[0][1] == 1
    assert made.encode(["NAB"])[0][1] == 1, "n was seen four times only"


OBJECTIVE = MaskedTokens(fraction=0.25)


@pytest.fixture(scope="module")
def material() -> Material:
    """64 rows of 32 random tokens."""
    draw = np.random.default_rng(0)
    ids = draw.integers(5, SPEC.vocabulary, (64, 32)).astype(np.int32)
    ids[:, 0], ids[:, -1], ids[:, 9] = 2, 3, 3
    ids[5, 4:] = 3  # a row with fewer words than slots
    return Material(
        network=Network(SHALLOW),
        preprocessing=preprocessing_of(SHALLOW),
        family="bert",
        fingerprint={},
        splits={"train": {"ids": ids}, "held_out": {"ids": ids}},
        special=(0, 2, 3),
        mask_id=4,
    )


def task_of(material: Material, **fields: int) -> BackboneTask:
    return BackboneTask(BackboneConfig(objective=OBJECTIVE, steps=4, **fields), material)


def test_masks_follow_the_rule_and_the_key(material):
    ids = material.splits["train"]["ids"]
    masked = jax.jit(functools.partial(OBJECTIVE.masked, material))
    totals = {"mask": 0, "same": 0, "other": 0}
    for number in range(12):
        shown, positions, counts = (np.asarray(x) for x in masked(ids, jax.random.key(number)))
        assert positions.shape == (64, 8)
        for row in range(64):
            assert len(set(positions[row])) == 8
            chosen = positions[row][counts[row]]
            assert len(chosen) == min(8, (~np.isin(ids[row], (0, 2, 3))).sum())
            assert not np.isin(ids[row, chosen], (0, 2, 3)).any()
            untouched = np.setdiff1d(np.arange(32), chosen)
            np.testing.assert_array_equal(shown[row, untouched], ids[row, untouched])
            totals["mask"] += (shown[row, chosen] == 4).sum()
            totals["same"] += (shown[row, chosen] == ids[row, chosen]).sum()
        totals["other"] += int(counts.sum())
    for name, share in (("mask", 0.8), ("same", 0.1)):
        assert totals[name] / totals["other"] == pytest.approx(share, abs=0.02), name
    again, other = masked(ids, jax.random.key(11))[0], masked(ids, jax.random.key(40))[0]
    np.testing.assert_array_equal(again, shown)
    assert (np.asarray(other) != shown).any()


def head_by_hand(head: dict, table: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log softmax [N,V] of dense, gelu, norm, tied decoder, in numpy."""
    y = reference.gelu(x @ head["dense"]["kernel"] + head["dense"]["bias"])
    y = reference.norm(y, head["norm"]["scale"], head["norm"]["bias"], SPEC.norm_epsilon)
    logits = y @ table.T + head["decoder"]["bias"]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_that_of_an_independent_bert(material):
    draw = np.random.default_rng(1)
    head = jax.tree.map(
        lambda x: (np.asarray(x) + 0.3 * draw.normal(size=x.shape)).astype(np.float32),
        OBJECTIVE.init_head(material, jax.random.key(0)),
    )
    params, key = {"backbone": random_params(SHALLOW), "head": head}, jax.random.key(3)
    batch = material.batch("train", np.array([3, 5, 8]), 4)
    assert batch["weights"].tolist() == [1, 1, 1, 0]
    shown, positions, counts = (np.asarray(x) for x in OBJECTIVE.masked(material, batch["ids"], key))
    losses = []
    for row in range(3):
        states = reference.states(params["backbone"], shown[row], SHALLOW)[-1]
        chosen = positions[row][counts[row]]
        scores = head_by_hand(head, params["backbone"]["embeddings"]["token"], states[chosen])
        losses += [-scores[i, batch["ids"][row, p]] for i, p in enumerate(chosen)]
    loss = functools.partial(OBJECTIVE.loss, material)
    found, number = jax.jit(loss)(params, batch, key)
    assert number == len(losses) == 8 + 3 + 8
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)
    rough, _ = jax.jit(functools.partial(loss, dtype=jnp.bfloat16, remat=True))(params, batch, key)
    assert float(rough) == pytest.approx(np.mean(losses), rel=0.05)


def test_a_batch_that_is_not_finite_changes_nothing_and_the_step_lowers_everywhere(material):
    task = task_of(material, batch_size=8)
    live, frozen = partition(first_params(task), task.is_live)
    assert set(flatten(frozen)) == {"backbone.pooler.dense.kernel", "backbone.pooler.dense.bias"}
    optimizer = task.optimizer()
    step = step_of(task.loss, optimizer, seed=0)
    batch = material.batch("train", task.rows(0), 8)
    state = first_state(live, optimizer)
    exported = export.export(step, platforms=("cpu", "cuda", "tpu"))(state, frozen, batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")

    before = jax.tree.map(np.array, live)
    state = step(
        first_state(jax.tree.map(jnp.array, live), optimizer), frozen, {**batch, "weights": batch["weights"] * np.nan}
    )
    assert state["sums"]["skipped"] == 1
    for path, leaf in flatten(state["live"]).items():
        np.testing.assert_array_equal(leaf, flatten(before)[path])
    state = step(state, frozen, batch)
    assert (state["sums"]["skipped"], state["step"]) == (1, 2)


def test_every_row_is_seen_once_in_an_epoch(material):
    task = task_of(material, batch_size=10)
    epochs = [np.concatenate([task.rows(e * 6 + i) for i in range(6)]) for e in range(2)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 60
    assert (epochs[0] != epochs[1]).any()


def test_a_tokenizer_without_a_mask_token_is_refused():
    hidden = tokenizer_json().replace('"[MASK]"', '"[HIDE]"')
    preprocessing = TextPreprocessing.from_file_text(hidden, 16, "x")
    with pytest.raises(InputError, match="has no mask token"):
        roles_of(preprocessing, needs_mask=True)
    assert roles_of(preprocessing, needs_mask=False).mask is None
