"""A graft to begin from: what is kept of it, and what is fitted anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adapters.graft import Graft
from adapters.labels.tagging import NO_TAG
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, TokenTagging
from tests.grafts import manifest, nonzero
from trainers.config import TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.cached_states import ComputedRows
from trainers.fitting.warm_start import Parent, grown


def test_a_start_keeps_what_attention_learnt(tiny):
    head = Classification(pooling="attention")
    old = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), head, ("a", "b"))
    new = replace(old, labels=("a", "b", "c"))
    rows = [np.arange(5, 9 + i % 3, dtype=np.int32) for i in range(12)]
    examples = Examples(rows, np.arange(12, dtype=np.int32) % 3, tiny.lengths)
    parent = Parent(replace(manifest(old.methods[0]), head=head), nonzero(old))
    found = grown(parent, new, TrainConfig(), tiny, examples, ComputedRows())
    np.testing.assert_array_equal(found["head"]["query"], parent.params["head"]["query"])
    np.testing.assert_array_equal(found["head"]["kernel"][:, :2], parent.params["head"]["kernel"])
    assert found["head"]["kernel"][:, 2].any()


def test_a_start_of_a_tagger_fits_new_tags_to_words(tiny):
    """Words, not rows, carry tags: the probe of the new one is fitted to the rows that hold it, word by word."""
    old = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), TokenTagging(), ("B-x", "O"))
    new = replace(old, labels=("B-x", "B-y", "O"))
    words, labels = [], np.full((12, 8), NO_TAG, np.int32)
    for i in range(12):
        row = np.array([2, 10, 11, 12, 3], np.int32)
        labels[i, 1:4] = 2
        if i % 2:
            row[2], labels[i, 2] = 40, 1  # token 40 is always B-y
        words.append(row)
    examples = Examples(words, labels, tiny.lengths)
    parent = Parent(replace(manifest(old.methods[0]), head=TokenTagging(), labels=old.labels), nonzero(old))
    tally = ComputedRows()
    params = grown(parent, new, TrainConfig(head=TokenTagging(), metric="entity_f1"), tiny, examples, tally)
    assert tally.rows == 12, "six rows that carry the new tag, and six others"
    np.testing.assert_array_equal(params["head"]["kernel"][:, [0, 2]], parent.params["head"]["kernel"])
    own = {**params, "head": {"kernel": params["head"]["kernel"][:, 1:2], "bias": params["head"]["bias"][1:2]}}
    score = Graft(replace(new, labels=("B-y",)), own, tiny, 16).logits_of_rows(words)[..., 0]
    assert score[labels == 1].min() > score[labels == 2].max(), "the fitted column tells B-y from other words"
