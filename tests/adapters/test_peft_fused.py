"""PEFT's layers that are query, key and value at once (ModernBERT's `Wqkv`), in both directions.

The golden was written by PEFT itself (`make goldens`). The rest is compared with PEFT's formula, W + alpha/r B A.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import topgraft
from adapters.export.peft import export_peft, import_peft
from adapters.export.peft.ia3 import IA3Codec
from adapters.export.peft.layers import layers_of
from adapters.export.peft.lora import LoraCodec
from adapters.export.peft.norm import NormCodec
from adapters.export.peft.vera import VeraCodec
from adapters.merging import merge
from adapters.model import GraftModel
from adapters.specs import IA3, Classification, Dora, Lora, LoraOverride, Norm, Vera
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec
from backbone.storage import load_backbone, save_backbone
from tests.families import config_of, family_of, token_rows
from tests.goldens.read import golden
from tests.grafts import LABELS, make, nonzero
from tests.tiny import SPEC, preprocessing_of, random_params, tokenizer_json

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
WEIGHTS = "adapter_model.safetensors"


def test_fused_layers_give_pefts_logits(tmp_path):
    network, params, _ = golden("modernbert")
    source = {"source": "tests", "family": "modernbert"}
    save_backbone(tmp_path / "backbone", network.spec, params, small_vocabulary(network.spec), source)
    import_peft(GOLDENS / "peft_fused", tmp_path / "backbone", tmp_path / "graft")
    ids, mask = pad(token_rows(), max(map(len, token_rows())))
    wanted = load_file(GOLDENS / "peft_fused" / "expected.safetensors")["logits"]
    backbone = load_backbone(tmp_path / "backbone")
    graft = topgraft.load(tmp_path / "graft", backbone)
    found = np.asarray(jax.jit(graft.model.logits)(backbone.params, graft.params, {"ids": ids, "mask": mask}))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


def small_vocabulary(spec: EncoderSpec) -> TextPreprocessing:
    """Returns the tiny tokenizer with as many words as the spec embeds."""
    tokenizer = json.loads(tokenizer_json())
    words = list(tokenizer["model"]["vocab"].items())[: spec.vocabulary]
    tokenizer["model"]["vocab"] = dict(words)
    return TextPreprocessing.from_file_text(json.dumps(tokenizer), spec.positions, "tiny")


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A tiny ModernBERT."""
    config = config_of("modernbert") | {"vocab_size": SPEC.vocabulary}
    spec = family_of("modernbert").spec(config, set())
    path = tmp_path_factory.mktemp("fused") / "backbone"
    save_backbone(path, spec, random_params(spec), preprocessing_of(spec), {"source": "tests", "family": "modernbert"})
    return load_backbone(path)


def weights(backbone, graft: Path) -> dict[int, np.ndarray]:
    """Returns the kernels of query, key and value [D,3D] with the adapter folded in, by block."""
    loaded = topgraft.load(graft, backbone)
    merged = merge(loaded.model, backbone.params, loaded.params["adapter"])
    return {block: np.asarray(merged["blocks"][str(block)]["attention"]["qkv"]["kernel"]) for block in (0, 1)}


def stored_weights(backbone, folder: Path) -> dict[int, np.ndarray]:
    """Returns the same by PEFT's formula, W + alpha/r B A or DoRA's, from the tensors of a folder."""
    config, tensors = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / WEIGHTS)
    result = {}
    for block in (0, 1):
        name = f"layers.{block}.attn.Wqkv"
        whole = np.asarray(backbone.params["blocks"][str(block)]["attention"]["qkv"]["kernel"])
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None:
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            assert len(a) == config["rank_pattern"].get(name, config["r"])
            alpha = config["alpha_pattern"].get(name, config["lora_alpha"])
            whole = whole + alpha / (len(a) ** 0.5 if config["use_rslora"] else len(a)) * (b @ a).T
            if config["use_dora"]:
                magnitude = tensors[f"base_model.model.{name}.lora_magnitude_vector"]
                whole = magnitude * whole / np.linalg.norm(whole, axis=0)
        result[block] = whole
    return result


@pytest.mark.parametrize(
    "spec",
    [
        Lora(
            rank=2,
            alpha=5.0,
            sites=("attention/*",),
            scaling="rank_stabilised",
            overrides=(
                LoraOverride("1/attention/query", rank=4, alpha=3.0),
                LoraOverride("attention/value", alpha=9.0),
            ),
        ),
        Dora(rank=2, sites=("attention/query", "attention/value")),
    ],
)
def test_a_fused_layer_there_and_back(spec, fused, tmp_path):
    make(tmp_path / "graft", fused, spec, Classification(pooling="first"))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=fused.path)
    own, theirs = weights(fused, tmp_path / "graft"), stored_weights(fused, tmp_path / "peft")
    import_peft(tmp_path / "peft", fused.path, tmp_path / "back")
    export_peft(tmp_path / "back", tmp_path / "again", backbone=fused.path)
    once, twice = (load_file(tmp_path / name / WEIGHTS) for name in ("peft", "again"))
    assert once.keys() == twice.keys()
    assert all(tensor.shape == twice[name].shape for name, tensor in once.items()), "the rank does not grow again"
    back = weights(fused, tmp_path / "back")
    for block in (0, 1):
        np.testing.assert_allclose(theirs[block], own[block], atol=1e-5)
        np.testing.assert_allclose(back[block], own[block], atol=1e-5)


@pytest.mark.parametrize("alike", [("query", "key"), ("key", "value"), ("query", "value"), ("query", "key", "value")])
def test_sites_with_the_same_a_share_its_rows(alike, fused):
    codec = LoraCodec()
    model = GraftModel(fused.network, (Lora(rank=2, sites=("attention/*",)),), Classification(), LABELS)
    leaves, layers = nonzero(model)["adapter"]["lora"], layers_of(fused, codec.kind, "")
    for part in alike:
        leaves["0"][f"attention/{part}"]["a"] = leaves["0"][f"attention/{alike[0]}"]["a"]
    adapted = [layer for layer in layers if any(site in model.site_parts["lora"][1] for site in layer.sites)]
    tensors, _ = codec.write(model, leaves, fused, adapted)
    a, b = (tensors[f"base_model.model.layers.0.attn.Wqkv.lora_{x}.weight"] for x in "AB")
    assert len(a) == 2 * (4 - len(alike))
    for part, product in zip(("query", "key", "value"), np.split(b @ a, 3), strict=True):
        own = leaves["0"][f"attention/{part}"]
        np.testing.assert_allclose(product, (np.asarray(own["a"]) @ np.asarray(own["b"])).T, rtol=1e-5, atol=1e-6)


def test_a_fused_layer_of_ia3(fused, tmp_path):
    make(tmp_path / "graft", fused, IA3(scale_outputs=("attention/key",), scale_inputs=("mlp/down",)))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=fused.path)
    scale = load_file(tmp_path / "peft" / WEIGHTS)["base_model.model.layers.0.attn.Wqkv.ia3_l"][:, 0]
    wanted = topgraft.load(tmp_path / "graft", fused).params["adapter"]["ia3"]["0"]["attention/key"]["scale"]
    np.testing.assert_array_equal(scale, np.concatenate([np.ones(32), wanted, np.ones(32)]).astype(np.float32))


@pytest.mark.parametrize(
    ("codec", "spec", "message"),
    [
        (
            IA3Codec(),
            IA3(scale_outputs=(), scale_inputs=("attention/key",)),
            "which scales its input for all of its parts",
        ),
        (VeraCodec(), Vera(rank=4, sites=("attention/key",)), "holds query, key and value, for which VeRA draws one"),
        (NormCodec(), Norm(), "has no bias in transformers"),
    ],
)
def test_what_a_layer_of_modernbert_cannot_hold_is_refused(codec, spec, message, fused):
    model = GraftModel(fused.network, (spec,), Classification(), LABELS)
    leaves, layers = nonzero(model)["adapter"][spec.tag], layers_of(fused, codec.kind, "")
    adapted = [layer for layer in layers if any(site in model.site_parts[spec.tag][1] for site in layer.sites)]
    with pytest.raises(InputError, match=message):
        codec.write(model, leaves, fused, adapted)
