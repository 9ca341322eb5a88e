"""A trunk of no blocks: its vectors against numpy, and a probe on it from training to serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adapters.export.compiled import export_jax
from adapters.graft import load_graft
from backbone.storage import load_backbone
from backbone.trees import flatten
from tests import reference
from tests.command import call
from tests.tiny import SPEC, as_json, rows, write_config
from tests.tiny_images import make_image_backbone
from trainers.distil_static import components, token_shares, token_states


@pytest.fixture
def static(tiny_path, tmp_path, capsys) -> dict:
    """The result of distilling the tiny trunk into the folder `static`."""
    (tmp_path / "texts.txt").write_text("\n".join(text for text, _ in rows(50)))
    words = ("distil-static", tiny_path, "--width", "16", "--text", "texts.txt", "--out", "static", "--json")
    status, out, err = call(*words, capsys=capsys)
    assert status == 0, err
    return as_json(out)


def test_states_of_tokens_are_those_of_the_trunk(tiny):
    states, special = token_states(tiny, tiny.preprocessing)
    assert list(np.flatnonzero(special)) == [0, 2, 3], "[PAD], [CLS] and [SEP]"
    params = jax.tree.map(np.asarray, tiny.params)
    for token in (1, 7, SPEC.vocabulary - 1):
        whole = reference.states(params, np.array([2, token, 3]), SPEC)[-1]
        np.testing.assert_allclose(states[token], whole.mean(axis=0), atol=1e-4)


def test_components_are_those_of_a_singular_value_decomposition():
    draw = np.random.default_rng(0)
    states = (draw.normal(size=(40, 6)) * [5, 3, 2, 1, 0.5, 0.1]).astype(np.float32)
    special = np.arange(40) < 3
    vectors, explained = components(states, special, 2)
    centred = states - states[3:].mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred[3:], full_matrices=False)
    np.testing.assert_allclose(np.abs(vectors), np.abs(centred @ directions[:2].T), atol=1e-4)
    assert explained == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), rel=1e-5)


def test_vectors_are_components_weighted_by_frequency(static, tiny):
    trunk = load_backbone("static")
    assert (trunk.spec.blocks, trunk.spec.width, trunk.spec.kv_width) == (0, 16, 16)
    assert list(flatten(trunk.params)) == ["embeddings.token"]
    assert trunk.preprocessing_id == tiny.preprocessing_id
    assert static["parameters"] == 16 * SPEC.vocabulary
    shares, counted = token_shares(tiny.preprocessing, SPEC.vocabulary, ["texts.txt"])
    assert counted == static["counted"] == sum(len(row) for row in tiny.preprocessing.encode([t for t, _ in rows(50)]))
    assert shares.sum() == pytest.approx(1)
    states, special = token_states(tiny, tiny.preprocessing)
    vectors, explained = components(states, special, 16)
    wanted = vectors * (1e-4 / (1e-4 + shares))[:, None] * ~special[:, None]
    np.testing.assert_allclose(trunk.params["embeddings"]["token"], wanted, rtol=1e-4, atol=1e-6)
    assert static["explained"] == pytest.approx(explained, abs=1e-3)
    falling, _ = token_shares(tiny.preprocessing, SPEC.vocabulary, [])
    assert falling[9] == pytest.approx(falling[0] / 10)


def test_a_probe_on_it_trains_is_read_again_exported_and_served(static, tmp_path, capsys):
    config = write_config(tmp_path / "config.py", Path("static").resolve(), tmp_path, adapter="Probe()")
    status, out, err = call("train", config, "--workdir", "run", "--json", "--quiet", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["accuracy"] > 0.9
    status, out, err = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    assert as_json(out)["metrics"] == result["metrics"], err
    status, out, err = call("predict", "run/graft", "--text", rows(1, seed=9)[0][0], "--json", capsys=capsys)
    assert status == 0, err
    status, out, err = call("profile", "run/graft", "--json", "--quiet", capsys=capsys)
    assert (status, as_json(out)["block_parameters"]) == (0, 0), err
    export_jax("run/graft", tmp_path / "out", buckets=(8, 48), batch=2)
    status, out, err = call("plan", config, "--json", "--quiet", capsys=capsys)
    assert status == 0, err
    graft = load_graft("run/graft")
    assert graft.backbone.spec == replace(graft.backbone.spec, blocks=0)


def test_what_has_no_block_takes_no_adapter(static, tmp_path, capsys):
    config = write_config(tmp_path / "config.py", Path("static").resolve(), tmp_path)
    status, _, err = call("train", config, "--workdir", "run", "--quiet", capsys=capsys)
    assert (status, "matches no site" in err) == (2, True), err


@pytest.mark.parametrize(("width", "message"), [("0", "--width: must lie between 1"), ("33", "the trunk's width 32")])
def test_a_width_that_cannot_be_is_refused(width, message, tiny_path, capsys):
    status, _, err = call("distil-static", tiny_path, "--width", width, "--out", "static", capsys=capsys)
    assert (status, message in err) == (2, True), err


def test_a_trunk_of_images_and_a_missing_text_are_refused(tiny_path, tmp_path, capsys):
    images = make_image_backbone(tmp_path / "vit")
    status, _, err = call("distil-static", images, "--out", "static", capsys=capsys)
    assert (status, "it reads images" in err) == (2, True), err
    words = ("distil-static", tiny_path, "--width", "8", "--text", "none.txt", "--out", "static")
    status, _, err = call(*words, capsys=capsys)
    assert (status, "--text: none.txt: no such file" in err) == (2, True), err
