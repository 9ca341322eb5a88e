"""MiniLM against transformers on PyTorch, through files that PyTorch wrote (`make goldens`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from backbone.buckets import pad

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
TEXTS = json.loads((GOLDENS / "sentences.json").read_text())


def test_last_hidden_states_of_64_sentences_equal_transformers(minilm):
    wanted = load_file(GOLDENS / "minilm_hidden.safetensors")
    rows = minilm.preprocessing.encode(TEXTS, 128)
    lengths = np.array([len(row) for row in rows])
    assert len(rows) == 64
    assert lengths.min() < 10
    assert lengths.max() > 100
    ids, mask = pad(rows, lengths.max())
    hidden = minilm.network.embed(minilm.params, {"ids": ids})
    hidden = minilm.network.run_blocks(minilm.params, hidden, mask)
    found = np.asarray(minilm.network.finish(minilm.params, hidden))
    np.testing.assert_allclose(found[:, 0], wanted["first"], atol=1e-4)
    np.testing.assert_allclose(found[np.arange(64), lengths - 1], wanted["last"], atol=1e-4)
    mean = (found * mask[..., None]).sum(1) / lengths[:, None]
    np.testing.assert_allclose(mean, wanted["mean"], atol=1e-4)
