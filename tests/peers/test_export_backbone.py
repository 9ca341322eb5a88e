"""What `export-backbone` writes, loaded by transformers: equal ids, states and logits."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")

from backbone.exchange.exporting import export_hf  # noqa: E402
from backbone.exchange.importing import import_backbone  # noqa: E402
from backbone.network.masked_head import head_logits, init_head, save_head  # noqa: E402
from backbone.storage import load_backbone, save_backbone  # noqa: E402
from tests.tiny import SPEC, make_tiny_backbone, preprocessing_of, random_params  # noqa: E402

TEXTS = ["ban bas bal ran", "Ros nil bas tun", "ban"]


def hidden_states(backbone, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    hidden = backbone.network.embed(backbone.params, {"ids": ids})
    return np.asarray(backbone.network.run_blocks(backbone.params, hidden, mask))


def test_a_run_is_a_masked_language_model(tmp_path):
    backbone = load_backbone(make_tiny_backbone(tmp_path / "run" / "backbone"))
    draw = np.random.default_rng(0)
    head = jax.tree.map(
        lambda x: np.asarray(x + 0.3 * draw.normal(size=x.shape), np.float32),
        init_head(backbone.spec, jax.random.key(0)),
    )
    save_head(tmp_path / "run", head, backbone.weights_id)
    report = export_hf(tmp_path / "run", tmp_path / "hf")
    assert report.architecture == "BertForMaskedLM"

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert tokenizer.mask_token == "[MASK]"
    rows = backbone.preprocessing.encode(TEXTS)
    for row, ids, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
        np.testing.assert_array_equal(row, ids[mask.bool()].numpy())

    model, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    with torch.inference_mode():
        wanted = model.eval()(**inputs).logits.numpy()
    mask = inputs["attention_mask"].numpy().astype(bool)
    hidden = hidden_states(backbone, inputs["input_ids"].numpy(), mask)
    table = backbone.params["embeddings"]["token"]
    found = np.asarray(head_logits(backbone.spec, head, table, hidden.reshape(-1, hidden.shape[-1])))
    difference = np.abs(found.reshape(wanted.shape) - wanted)[mask].max()
    assert difference < 1e-4 * max(1, np.abs(wanted).max())
    assert np.abs(wanted).max() > 1


def test_a_backbone_is_an_encoder_with_its_pooler(tiny, tiny_path, tmp_path):
    assert export_hf(tiny_path, tmp_path / "hf").architecture == "BertModel"
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    rows = np.stack(tiny.preprocessing.encode(["ban bas bal", "ros nil tun"]))
    with torch.inference_mode():
        wanted = model.eval()(input_ids=torch.from_numpy(rows.astype(np.int64)))
    hidden = hidden_states(tiny, rows, np.ones(rows.shape, bool))
    assert np.abs(hidden - wanted.last_hidden_state.numpy()).max() < 1e-4
    pooled = np.asarray(tiny.network.pooled_first(tiny.params, hidden))
    assert np.abs(pooled - wanted.pooler_output.numpy()).max() < 1e-4


def test_a_lean_run_is_an_albert(tmp_path):
    spec = replace(SPEC, blocks=4, groups=2, embedding_width=16, activation="gelu_tanh", pooler=False)
    params = random_params(spec)
    source = {"source": "tests", "family": "albert"}
    save_backbone(tmp_path / "run" / "backbone", spec, params, preprocessing_of(spec), source)
    backbone = load_backbone(tmp_path / "run" / "backbone")
    draw = np.random.default_rng(0)
    head = jax.tree.map(
        lambda x: np.asarray(x + 0.3 * draw.normal(size=x.shape), np.float32), init_head(spec, jax.random.key(0))
    )
    save_head(tmp_path / "run", head, backbone.weights_id)
    assert export_hf(tmp_path / "run", tmp_path / "hf").architecture == "AlbertForMaskedLM"
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    rows = np.stack(backbone.preprocessing.encode(["ban bas bal", "ros nil tun"]))
    with torch.inference_mode():
        wanted = model.eval()(input_ids=torch.from_numpy(rows.astype(np.int64))).logits.numpy()
    hidden = hidden_states(backbone, rows, np.ones(rows.shape, bool))
    found = np.asarray(head_logits(spec, head, backbone.params["embeddings"]["token"], hidden.reshape(-1, spec.width)))
    assert np.abs(found.reshape(wanted.shape) - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    import_backbone(tmp_path / "hf", tmp_path / "again")
    assert load_backbone(tmp_path / "again").weights_id == backbone.weights_id
