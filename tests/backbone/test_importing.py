"""Imports: the real MiniLM against goldens made by transformers, and everything that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backbone.errors import InputError
from backbone.exchange.importing import MINILM_SHA256, import_backbone, minilm_folder
from backbone.families.bert import Bert
from backbone.files import sha256_file
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
    unpadded = json.loads(tokenizer_json()) | {"padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(unpadded))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
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
    assert report.tokenizer == ()


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


def test_an_index_names_files_of_its_folder_alone(source, tmp_path):
    outside = source.parent / "outside.safetensors"
    (source / "model.safetensors").rename(outside)
    for name in ("../outside.safetensors", str(outside)):
        index = {"weight_map": dict.fromkeys(load_file(outside), name)}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match=r"outside\.safetensors: named by model\.safetensors\.index\.json"):
            import_backbone(source, tmp_path / "out")


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_an_index_of_other_content(source, tmp_path, content):
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json: .*fetch"):
        import_backbone(source, tmp_path / "out")


def test_a_shard_without_a_tensor_that_the_index_names(source, tmp_path):
    (source / "model.safetensors").rename(source / "part.safetensors")
    places = dict.fromkeys([*load_file(source / "part.safetensors"), "pooler.dense.extra"], "part.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match=r"part\.safetensors: .*index\.json says that it holds pooler\.dense\.extra"):
        import_backbone(source, tmp_path / "out")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../part.safetensors"}}))
    with pytest.raises(InputError, match="missing"):
        import_backbone(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pytorch_model.bin",
            r"has neither model\.safetensors nor .*pytorch_model\.bin cannot be read.*save_pretrained",
        ),
        ("tf_model.h5", r"tf_model\.h5 cannot be read"),
        ("flax_model.msgpack", r"flax_model\.msgpack cannot be read"),
        ("README.md", r"has neither model\.safetensors nor model\.safetensors\.index\.json; convert"),
    ],
)
def test_weights_in_another_format_are_named_with_the_remedy(source, tmp_path, name, message):
    (source / "model.safetensors").rename(source / name)
    with pytest.raises(InputError, match=message):
        import_backbone(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_named(source, tmp_path, name):
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=rf"{name}: a Git LFS pointer, .*git lfs pull"):
        import_backbone(source, tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtypes_of_weights_become_float32(source, tmp_path, dtype):
    rewrite(source, lambda t: t.update({n: a.astype(dtype) for n, a in t.items()}))
    import_backbone(source, tmp_path / "out")
    for path, leaf in flatten(load_backbone(tmp_path / "out").params).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, flatten(random_params())[path].astype(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_, ml_dtypes.float8_e4m3fn])
def test_other_dtypes_are_refused_by_name(source, tmp_path, dtype):
    name = "encoder.layer.0.output.dense.weight"
    rewrite(source, lambda t: t.update({name: t[name].astype(dtype)}))
    with pytest.raises(InputError, match=rf"model\.safetensors: {name}: \w+ is no dtype of weights .*quantisation"):
        import_backbone(source, tmp_path / "out")


def test_buffers_are_left_out_by_name_whatever_their_dtype(source, tmp_path, tiny):
    buffers = {"bert.embeddings.position_ids": np.int64, "embeddings.token_type_ids": np.int32}
    rewrite(source, lambda t: t.update({n: np.zeros((1, 64), dtype) for n, dtype in buffers.items()}))
    report = import_backbone(source, tmp_path / "out")
    assert report.ignored == tuple(sorted(buffers))
    assert report.weights_id == tiny.weights_id


@pytest.mark.parametrize(
    ("architecture", "head", "pooler"),
    [
        ("BertForSequenceClassification", ("classifier.weight", "classifier.bias"), True),
        ("BertForTokenClassification", ("classifier.weight", "classifier.bias"), False),
        ("BertForQuestionAnswering", ("qa_outputs.weight", "qa_outputs.bias"), False),
        ("BertForMaskedLM", ("cls.predictions.bias", "cls.predictions.decoder.weight"), False),
    ],
)
def test_a_model_of_a_task_gives_its_encoder_and_says_what_was_left_out(
    source, tmp_path, tiny, architecture, head, pooler
):
    def change(tensors):
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name)
            if name.startswith("pooler") and not pooler:
                del tensors[f"bert.{name}"]
        tensors.update({name: np.ones(3, np.float32) for name in head})

    rewrite(source, change)
    (source / "config.json").write_text(json.dumps(CONFIG | {"architectures": [architecture]}))
    report = import_backbone(source, tmp_path / "out")
    assert report.ignored == tuple(sorted(head))
    assert report.spec.pooler == pooler
    assert (report.weights_id == tiny.weights_id) == pooler


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
        (lambda t: t["pooler.dense.bias"].fill(np.inf), r"model\.safetensors: .* fetch another copy"),
        (
            lambda t: t.update({"bert.pooler.dense.bias": t["pooler.dense.bias"] + 1}),
            r"pooler\.dense\.bias and .*pooler\.dense\.bias are one tensor, with two values",
        ),
        (lambda t: t.update({"scorer.weight": np.zeros(3, np.float32)}), r"save the encoder alone \(AutoModel"),
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
        ("model_type", None),
        ("model_type", ["bert"]),
        ("hidden_act", ["gelu"]),
        ("num_hidden_layers", 10**9),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("hidden_act", "mish"),
        ("quantization_config", {"bits": 4}),
        ("num_hidden_layers", "six"),
    ],
)
def test_options_that_are_not_supported_name_the_field(source, tmp_path, field, value):
    (source / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(InputError, match=rf"config\.json: .*{field}"):
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
