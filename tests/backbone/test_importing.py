"""Imports: the real MiniLM against goldens made by transformers, and everything that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backbone.errors import InputError
from backbone.families.bert import Bert
from backbone.files import sha256_file
from backbone.importing import MINILM_SHA256, import_backbone, minilm_folder
from backbone.storage import load_backbone
from backbone.trees import flatten
from tests.tiny import SPEC, random_params, tokenizer_json

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": SPEC.blocks,
    "hidden_size": SPEC.width,
    "num_attention_heads": SPEC.heads,
    "intermediate_size": SPEC.mlp_width,
    "vocab_size": SPEC.vocabulary,
    "max_position_embeddings": SPEC.positions,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def tensors_of(params) -> dict[str, np.ndarray]:
    """The file that transformers would write for these parameters."""
    found = {}
    for path, leaf in flatten(params).items():
        names = Bert().sources(path)
        parts = np.split(leaf, len(names), axis=-1)
        for name, part in zip(names, parts, strict=True):
            found[name] = np.ascontiguousarray(part.T if path.endswith(".kernel") else part)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    save_file(tensors_of(random_params()), folder / "model.safetensors")
    return folder


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_is_imported_is_what_was_in_the_file(source, tmp_path, tiny):
    report = import_backbone(source, tmp_path / "out")
    loaded = load_backbone(tmp_path / "out")
    for (path, found), (_, wanted) in zip(flatten(loaded.params).items(), flatten(tiny.params).items(), strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=path)
    assert report.weights_id == loaded.weights_id == tiny.weights_id
    assert report.preprocessing_id == tiny.preprocessing_id
    assert report.bound == len(load_file(source / "model.safetensors"))


def test_prefixes_old_names_and_pretraining_heads(source, tmp_path):
    def change(tensors):
        for name in list(tensors):
            new = "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[new] = tensors.pop(name)
        tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
        tensors["bert.embeddings.position_ids"] = np.zeros((1, 64), np.int64)

    rewrite(source, change)
    report = import_backbone(source, tmp_path / "out")
    assert report.ignored == ("bert.embeddings.position_ids", "cls.predictions.bias")


def test_a_file_without_a_pooler(source, tmp_path):
    rewrite(source, lambda t: [t.pop(n) for n in list(t) if n.startswith("pooler")])
    assert not import_backbone(source, tmp_path / "out").spec.pooler


def test_a_sharded_index(source, tmp_path, tiny):
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    for i, part in enumerate((names[:20], names[20:])):
        save_file({n: tensors[n] for n in part}, source / f"model-{i}.safetensors")
    (source / "model.safetensors").unlink()
    index = {"weight_map": {n: f"model-{int(n in names[20:])}.safetensors" for n in names}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert import_backbone(source, tmp_path / "out").weights_id == tiny.weights_id
    (source / "model-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-1\.safetensors: named by .*index.json, but missing"):
        import_backbone(source, tmp_path / "out2")


def test_half_precision_files_become_float32(source, tmp_path):
    rewrite(source, lambda t: t.update({n: a.astype(np.float16) for n, a in t.items()}))
    import_backbone(source, tmp_path / "out")
    assert all(leaf.dtype == np.float32 for leaf in flatten(load_backbone(tmp_path / "out").params).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layer.1.output.dense.weight"), r"blocks\.1\.mlp\.down\.kernel .* is not filled"),
        (
            lambda t: t.update({"extra.weight": np.zeros(3, np.float32)}),
            r"extra\.weight float32\[3\] .* binds to no parameter",
        ),
        (
            lambda t: t.update({"embeddings.word_embeddings.weight": np.zeros((9, 32), np.float32)}),
            r"embeddings\.token: the file gives",
        ),
        (lambda t: t["pooler.dense.bias"].fill(np.nan), r"pooler\.dense\.bias: .* not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_reported(source, tmp_path, change, message):
    rewrite(source, change)
    with pytest.raises(InputError, match=message):
        import_backbone(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "t5"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("hidden_act", "mish"),
        ("quantization_config", {"bits": 4}),
        ("num_hidden_layers", "six"),
    ],
)
def test_options_that_are_not_supported_name_the_field(source, tmp_path, field, value):
    (source / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(InputError, match=field):
        import_backbone(source, tmp_path / "out")


def test_damaged_and_missing_files(source, tmp_path):
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        import_backbone(source, tmp_path / "out")
    (source / "model.safetensors").write_bytes(whole)
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer"):
        import_backbone(source, tmp_path / "out")
    (source / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: missing"):
        import_backbone(source, tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        import_backbone(tmp_path / "nowhere", tmp_path / "out")


def test_a_tokenizer_of_another_backbone_is_refused(source, tmp_path):
    rewrite(
        source, lambda t: t.update({"embeddings.word_embeddings.weight": t["embeddings.word_embeddings.weight"][:100]})
    )
    (source / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 100}))
    with pytest.raises(InputError, match="belongs to another backbone"):
        import_backbone(source, tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(source, tmp_path):
    import_backbone(source, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        import_backbone(source, tmp_path / "out")
    import_backbone(source, tmp_path / "out", replace=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "out"], "no temporary folder is left"


def test_the_embedded_minilm_is_the_published_one():
    assert sha256_file(minilm_folder() / "model.safetensors") == MINILM_SHA256
