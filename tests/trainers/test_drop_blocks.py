"""`topgraft drop-blocks`: the blocks that change states least are gone, and the rest is a trunk like any other."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from backbone.storage import load_backbone
from tests import reference
from tests.command import call
from tests.tiny import SPEC, as_json, rows, write_config
from tests.tiny_images import make_image_backbone
from trainers.config.load import load_config
from trainers.train import train

TEXTS = [text for text, _ in rows(30)]


@pytest.fixture
def dropped(tiny_path, tmp_path, capsys) -> dict:
    """The result of dropping one block of the tiny trunk, in the folder `fewer`."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    words = ("drop-blocks", tiny_path, "--blocks", 1, "--text", "texts.txt", "--out", "fewer", "--json")
    status, out, err = call(*words, capsys=capsys)
    assert status == 0, err
    return as_json(out)


def test_influence_is_one_minus_the_cosine_of_states(dropped, tiny):
    """Token by token, from the reference network."""
    params = jax.tree.map(np.asarray, tiny.params)
    distances = []
    for ids in tiny.preprocessing.encode(TEXTS):
        states = reference.states(params, ids, SPEC)
        for before, after in itertools.pairwise(states):
            cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
            distances.append((1 - cosine).sum())
    tokens = sum(len(ids) for ids in tiny.preprocessing.encode(TEXTS))
    expected = np.array(distances).reshape(-1, SPEC.blocks).sum(axis=0) / tokens
    assert dropped["tokens"] == tokens
    np.testing.assert_allclose(dropped["influence"], expected, rtol=1e-3)
    assert dropped["dropped"] == [int(expected.argmin())]


def test_the_new_trunk_is_the_former_without_that_block(dropped, tiny):
    (gone,) = dropped["dropped"]
    small = load_backbone("fewer")
    assert (small.spec.blocks, dropped["blocks"]) == (2, 2)
    assert small.weights_id == dropped["weights_id"] != tiny.weights_id
    assert small.preprocessing_id == tiny.preprocessing_id
    assert dropped["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(small.params))
    ids = tiny.preprocessing.encode(TEXTS[:1])[0][None]
    mask = np.ones(ids.shape, bool)
    hidden = tiny.network.embed(tiny.params, {"ids": ids})
    for block in range(3):
        if block != gone:
            hidden = tiny.network.run_blocks(tiny.params, hidden, mask, start=block, stop=block + 1)
    run = small.network.run_blocks(small.params, small.network.embed(small.params, {"ids": ids}), mask)
    np.testing.assert_allclose(run, hidden, rtol=1e-5, atol=1e-5)


def test_a_graft_is_trained_on_it(dropped, tmp_path):
    script = write_config(tmp_path / "config.py", Path("fewer"), tmp_path)
    settings = ("adapter.method=probe", "precision=float32")
    result = train(load_config(script, settings), tmp_path / "run")
    assert result.metrics["test"]["accuracy"] > 0.8


def test_what_it_refuses(tiny_path, compact_path, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "empty.txt").write_text("\n \n")
    images = make_image_backbone(tmp_path / "images")

    def refused(message, backbone, *, blocks=1, text="texts.txt"):
        words = ("drop-blocks", backbone, "--blocks", blocks, "--text", text, "--out", "refused")
        status, _, err = call(*words, capsys=capsys)
        assert (status, message in err) == (2, True), err
        assert not Path("refused").exists()

    refused("--blocks: must lie between 1 and 2, got 3", tiny_path, blocks=3)
    refused("--blocks", tiny_path, blocks=0)
    refused("no line to judge blocks by", tiny_path, text="empty.txt")
    refused("no such file", tiny_path, text="absent.txt")
    refused("it reads images", images)
    refused("its blocks share weights", compact_path)
