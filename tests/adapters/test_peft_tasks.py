"""Heads and weights of PEFT folders: tasks, kinds of problems, names of labels, biases, files that are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import topgraft
from adapters.export.peft import export_peft, import_peft
from adapters.merging import merge
from adapters.specs import (
    Classification,
    Dora,
    Lora,
    LoraOverride,
    MultiLabel,
    Regression,
    TokenTagging,
)
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.storage import load_backbone
from tests.grafts import make
from tests.tiny import golden_params, make_tiny_backbone
from tests.tiny import rows as samples

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
TEXTS = ["ban bas bal", "ros nil"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory) -> Path:
    """A LoRA of the tiny BERT with the classifier of three outputs that PEFT would save."""
    path = tmp_path_factory.mktemp("saved")
    make(path / "source", tiny, Lora(rank=2), Classification(pooling="pooler"))
    export_peft(path / "source", path / "peft", backbone=tiny.path)
    (path / "peft" / "topgraft.json").unlink()
    return path / "peft"


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "peft"))


def configure(folder: Path, **fields) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def narrowed(tensors) -> None:
    for part in ("weight", "bias"):
        key = f"base_model.model.classifier.{part}"
        tensors[key] = np.ascontiguousarray(tensors[key][:1])


def test_an_anchored_pattern_means_the_names_that_peft_saw(folder, tiny, tmp_path):
    first = import_peft(folder, tiny.path, tmp_path / "plain")
    answers = topgraft.load(tmp_path / "plain", tiny).logits(TEXTS)
    configure(folder, alpha_pattern={"^encoder.layer.0.attention.self.query": 160})
    anchored = import_peft(folder, tiny.path, tmp_path / "anchored")
    assert anchored.content_id == first.content_id
    assert "matches no layer, as in PEFT" in anchored.notes[0]
    configure(folder, alpha_pattern={"^bert.encoder.layer.0.attention.self.query": 160})
    import_peft(folder, tiny.path, tmp_path / "named")
    named = topgraft.load(tmp_path / "named", tiny)
    assert named.model.methods[0].overrides == (LoraOverride("0/attention/query", alpha=160.0),)
    assert np.abs(named.logits(TEXTS) - answers).max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "outputs", "problem", "head"),
    [
        ({}, 3, None, Classification(pooling="pooler")),
        ({}, 1, None, Regression(pooling="pooler", center=0.0, spread=1.0)),
        ({}, 3, "multi_label_classification", MultiLabel(pooling="pooler")),
        ({"problem_type": "multi_label_classification"}, 1, None, MultiLabel(pooling="pooler")),
        ({"problem_type": "multi_label_classification"}, 3, "single_label_classification", Classification("pooler")),
    ],
)
def test_the_problem_decides_the_head(fields, outputs, problem, head, folder, tiny, tmp_path):
    (folder / "config.json").write_text(json.dumps(fields))
    if outputs == 1:
        rewrite(folder, narrowed)
    done = import_peft(folder, tiny.path, tmp_path / "graft", problem=problem)
    assert topgraft.load(tmp_path / "graft", tiny).model.head == head
    assert done.head == head.kind
    assert bool(done.notes) == (not fields and problem is None), "what is assumed is said"


def test_one_output_is_a_number(folder, tiny, tmp_path):
    import_peft(folder, tiny.path, tmp_path / "three")
    rewrite(folder, narrowed)
    import_peft(folder, tiny.path, tmp_path / "one")
    logits = topgraft.load(tmp_path / "three", tiny).logits(TEXTS)
    values = [prediction.value for prediction in topgraft.load(tmp_path / "one", tiny).predict(TEXTS)]
    np.testing.assert_allclose(values, logits[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "regression"}, "problem_type: regression with 3 outputs"),
        ({"problem_type": "ranking"}, "problem_type: 'ranking' is not supported"),
    ],
)
def test_a_problem_without_a_head_of_ours_is_refused(fields, message, folder, tiny, tmp_path):
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        import_peft(folder, tiny.path, tmp_path / "graft")


def test_a_tagger_of_peft_is_a_tagger(folder, tiny, tmp_path):
    configure(folder, task_type="TOKEN_CLS")
    for names in (None, "a,b,c", "O,B-x,L-x", "B-x,I-x,B-y"):
        with pytest.raises(InputError, match="task_type: TOKEN_CLS: a tagger needs the names of its BIO tags"):
            import_peft(folder, tiny.path, tmp_path / "graft", labels=names)
    done = import_peft(folder, tiny.path, tmp_path / "graft", labels="O,B-x,I-x")
    assert (done.task, done.head, done.labels) == ("TOKEN_CLS", "token_tagging", ("O", "B-x", "I-x"))
    (prediction,) = topgraft.load(tmp_path / "graft", tiny).predict([["ban", "bas", "bal"]])
    assert len(prediction.labels) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_type": "CAUSAL_LM"}, "task_type: 'CAUSAL_LM' is not supported; one of SEQ_CLS, TOKEN_CLS"),
        ({"task_type": None}, "task_type: null, and auto_mapping names no class; write SEQ_CLS"),
        ({"task_type": "FEATURE_EXTRACTION"}, "FEATURE_EXTRACTION has no classifier, but the folder holds one"),
        (
            {"task_type": None, "auto_mapping": {"base_model_class": "BertForMultipleChoice"}},
            "auto_mapping: 'BertForMultipleChoice' is not supported",
        ),
    ],
)
def test_a_task_without_a_head_of_ours_is_refused(fields, message, folder, tiny, tmp_path):
    configure(folder, **fields)
    with pytest.raises(InputError, match=message):
        import_peft(folder, tiny.path, tmp_path / "graft")


def test_the_wrapped_class_decides_where_the_task_does_not(folder, tiny, tmp_path):
    configure(folder, task_type=None, auto_mapping={"base_model_class": "BertForSequenceClassification"})
    assert import_peft(folder, tiny.path, tmp_path / "rows").head == "classification"
    configure(folder, task_type=None, auto_mapping={"base_model_class": "BertForTokenClassification"})
    assert import_peft(folder, tiny.path, tmp_path / "tags", labels="O,B-x,I-x").head == "token_tagging"


def test_names_come_from_the_wrapped_model(folder, tiny, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"id2label": {"1": "y", "2": "z", "0": "x"}}))
    configure(folder, base_model_name_or_path=str(tmp_path / "model"))
    assert import_peft(folder, tiny.path, tmp_path / "graft").labels == ("x", "y", "z")
    assert import_peft(folder, tiny.path, tmp_path / "other", labels="a,b,c").labels == ("a", "b", "c")


def test_names_of_a_file_that_windows_saved(folder, tiny, tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfnegative\r\nneutral\r\npositive\r\n")
    done = import_peft(folder, tiny.path, tmp_path / "graft", labels=str(tmp_path / "names.txt"))
    assert done.labels == ("negative", "neutral", "positive")
    for names, message in (
        ("a,a,b", "'a' stands more than once"),
        ("a,,b", "a name is empty"),
        ("caf\u00e9,cafe\u0301,b", "are one label; names must be distinct"),
    ):
        with pytest.raises(InputError, match=message):
            import_peft(folder, tiny.path, tmp_path / "other", labels=names)


def test_weights_that_are_not_there(folder, tiny, tmp_path):
    kept = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(InputError, match="a Git LFS pointer, not the file itself; run `git lfs pull`"):
        import_peft(folder, tiny.path, tmp_path / "graft")
    (folder / WEIGHTS).write_bytes(kept[:-40])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        import_peft(folder, tiny.path, tmp_path / "graft")
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: missing; PEFT's save_pretrained writes it"):
        import_peft(folder, tiny.path, tmp_path / "graft")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(
        InputError, match=r"save_pretrained\(NEW_FOLDER, safe_serialization=True\) writes adapter_model"
    ):
        import_peft(folder, tiny.path, tmp_path / "graft")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 3}, "rank 2, but r and rank_pattern say 3"),
        ({"rank_pattern": {"value": 4}}, r"layer\.0\.attention\.self\.value.*: rank 2, but r and rank_pattern say 4"),
        ({"use_a_new_way": 0.5}, "use_a_new_way: 0.5: a field of another version of PEFT"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: .*path_initial_model_for_weight_conversion"),
        ({"target_modules": ["query"]}, "value.*not chosen, so PEFT leaves its tensors out"),
        ({"target_modules": ["query", "value", "key"]}, "key.*chosen, but the folder has no tensors of it"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(fields, message, folder, tiny, tmp_path):
    configure(folder, **fields)
    with pytest.raises(InputError, match=message):
        import_peft(folder, tiny.path, tmp_path / "graft")


def test_a_field_that_stands_twice_is_refused(folder, tiny, tmp_path):
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().rstrip("}") + ', "r": 2}')
    with pytest.raises(InputError, match=r"adapter_config\.json: the key 'r' stands twice"):
        import_peft(folder, tiny.path, tmp_path / "graft")


def test_names_of_the_plain_encoder_in_a_model_of_a_task_are_refused(folder, tiny, tmp_path):
    rewrite(folder, lambda t: [t.update({k.replace(".bert.", "."): t.pop(k)}) for k in list(t)])
    configure(folder, target_modules=["query", "value"])
    with pytest.raises(InputError, match=r"begin with base_model\.model\.bert\.; these are those of the plain encoder"):
        import_peft(folder, tiny.path, tmp_path / "graft")


def test_texts_are_cut_at_the_backbones_longest_input(folder, tiny, tmp_path):
    import_peft(folder, tiny.path, tmp_path / "whole")
    import_peft(folder, tiny.path, tmp_path / "short", max_tokens=16)
    lengths = [topgraft.load(tmp_path / name, tiny).manifest.max_tokens for name in ("whole", "short")]
    assert lengths == [tiny.preprocessing.max_tokens, 16]
    with pytest.raises(InputError, match=r"--max-tokens: must lie in 1\.\.64"):
        import_peft(folder, tiny.path, tmp_path / "long", max_tokens=65)


def test_what_a_config_leaves_out_is_as_in_peft(folder, tiny, tmp_path):
    file = folder / "adapter_config.json"
    fields = json.loads(file.read_text())
    for name in ("lora_alpha", "rank_pattern", "alpha_pattern", "lora_dropout", "use_rslora", "use_dora", "bias"):
        del fields[name]
    file.write_text(json.dumps(fields))
    import_peft(folder, tiny.path, tmp_path / "graft")
    assert topgraft.load(tmp_path / "graft", tiny).model.methods == (
        Lora(rank=2, alpha=8.0, sites=("attention/query", "attention/value")),
    )


@pytest.mark.parametrize("root", [False, True])
def test_trained_biases_add_to_the_layers(root, folder, tiny, tmp_path):
    configure(folder, use_rslora=root)
    import_peft(folder, tiny.path, tmp_path / "plain")
    draw = np.random.default_rng(3)
    layer = "base_model.model.bert.encoder.layer.1.attention.self.value"
    base = np.asarray(tiny.params["blocks"]["1"]["attention"]["qkv"]["bias"])[64:]
    added = {"base_layer.bias": draw.normal(size=32), "lora_B.bias": draw.normal(size=32)}
    whole = {"base_layer.bias": base + added["base_layer.bias"], "lora_B.bias": added["lora_B.bias"]}
    rewrite(folder, lambda t: t.update({f"{layer}.{name}": np.float32(bias) for name, bias in whole.items()}))
    configure(folder, bias="lora_only", lora_bias=True)
    import_peft(folder, tiny.path, tmp_path / "biased")
    plain, biased = (topgraft.load(tmp_path / name, tiny) for name in ("plain", "biased"))
    rank = plain.model.methods[0].rank
    scale = plain.model.methods[0].alpha / (rank**0.5 if root else rank)
    before, after = (
        np.asarray(merge(g.model, tiny.params, g.params["adapter"])["blocks"]["1"]["attention"]["qkv"]["bias"])
        for g in (plain, biased)
    )
    np.testing.assert_allclose(
        (after - before)[64:], added["base_layer.bias"] + scale * added["lora_B.bias"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(after[:64], before[:64])


@pytest.mark.parametrize(
    ("head", "task"),
    [
        (MultiLabel(pooling="pooler", threshold=0.3), "SEQ_CLS"),
        (TokenTagging(), "TOKEN_CLS"),
        (MultiLabel(pooling="mean"), "FEATURE_EXTRACTION"),
    ],
)
def test_other_heads_there_and_back(head, task, tiny, tmp_path):
    make(tmp_path / "graft", tiny, Lora(rank=2), head)
    assert export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path).task == task
    import_peft(tmp_path / "peft", tiny.path, tmp_path / "back")
    before, after = (topgraft.load(tmp_path / name, tiny) for name in ("graft", "back"))
    assert after.model == before.model
    for name, leaf in before.params["head"].items():
        np.testing.assert_array_equal(after.params["head"][name], leaf)


def test_a_number_leaves_in_its_own_units(tiny, tmp_path):
    _, _, params = make(tmp_path / "graft", tiny, Lora(rank=2), Regression("pooler", center=3.0, spread=2.0))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    stored = load_file(tmp_path / "peft" / WEIGHTS)
    np.testing.assert_allclose(stored["base_model.model.classifier.weight"].T, 2 * params["head"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(stored["base_model.model.classifier.bias"], 2 * params["head"]["bias"] + 3, rtol=1e-6)


def test_a_tagger_with_patterns_and_biases_gives_pefts_logits(tmp_path):
    trunk = load_backbone(make_tiny_backbone(tmp_path / "backbone", params=golden_params()))
    done = import_peft(GOLDENS / "peft_tagger", trunk.path, tmp_path / "graft", labels="O,B-x,I-x")
    assert any("'^encoder.layer.0.attention.self.query' matches no layer" in note for note in done.notes)
    ids, mask = pad(rows := trunk.preprocessing.encode([text for text, _ in samples(16, seed=4)]), max(map(len, rows)))
    wanted = load_file(GOLDENS / "peft_tagger" / "expected.safetensors")["logits"]
    graft = topgraft.load(tmp_path / "graft", trunk)
    found = np.asarray(jax.jit(graft.model.logits)(trunk.params, graft.params, {"ids": ids, "mask": mask}))
    np.testing.assert_allclose(found[mask], wanted[mask], atol=2e-4)
    assert np.ptp(wanted[mask], axis=0).max() > 1


def test_the_folder_for_vllm_has_one_rank_and_one_scale(tiny, tmp_path):
    spec = Lora(rank=2, sites=("attention/query", "mlp/up"), overrides=(LoraOverride("mlp/up", rank=3, alpha=7.0),))
    make(tmp_path / "graft", tiny, spec, Classification(pooling="pooler"))
    export_peft(tmp_path / "graft", tmp_path / "vllm", backbone=tiny.path, vllm=True)
    config = json.loads((tmp_path / "vllm" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (3, {}, {})
    assert config["modules_to_save"] == ["classifier"]
    import_peft(tmp_path / "vllm", tiny.path, tmp_path / "back")
    plain, uniform = (topgraft.load(tmp_path / name, tiny).logits(TEXTS) for name in ("graft", "back"))
    np.testing.assert_allclose(uniform, plain, atol=1e-5)
    make(tmp_path / "dora", tiny, Dora(rank=2), Classification(pooling="pooler"))
    with pytest.raises(InputError, match="vLLM reads LoRA alone; this graft has dora"):
        export_peft(tmp_path / "dora", tmp_path / "refused", backbone=tiny.path, vllm=True)
    make(tmp_path / "tags", tiny, Lora(rank=2), TokenTagging())
    with pytest.raises(InputError, match="not that of a tagger"):
        export_peft(tmp_path / "tags", tmp_path / "refused", backbone=tiny.path, vllm=True)


def test_a_head_beside_the_folder_needs_its_settings(tiny, tmp_path):
    make(tmp_path / "graft", tiny, Lora(rank=2), Classification(pooling="mean"))
    export_peft(tmp_path / "graft", tmp_path / "peft", backbone=tiny.path)
    shutil.copytree(tmp_path / "peft", tmp_path / "bare")
    (tmp_path / "bare" / "topgraft.json").unlink()
    with pytest.raises(InputError, match=r"topgraft\.json: head: missing; it says how the states are pooled"):
        import_peft(tmp_path / "bare", tiny.path, tmp_path / "back")
    (tmp_path / "bare" / "topgraft_head.safetensors").unlink()
    with pytest.raises(InputError, match="an adapter of the plain encoder without a head"):
        import_peft(tmp_path / "bare", tiny.path, tmp_path / "back")
