"""Adapter folders made by PEFT itself over its options, on tiny random models, with the logits that PEFT gives.

    folder = make(CASES["alpha_anchored"], Path("cases"))

A case is saved with `save_pretrained`, changed where it says so, and loaded again by `PeftModel.from_pretrained`: the
logits are those of the folder. Needs torch, transformers and peft.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from backbone.buckets import pad
from tests.families import CONFIGS, TEXT, images
from tests.tiny import SPEC, preprocessing_of, rows, tokenizer_json

CLASSES = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    "IMAGE": transformers.AutoModelForImageClassification,
    "PLAIN": transformers.AutoModel,
}
POOLED = {"labels": ["a", "b", "c"], "head": {"kind": "classification", "pooling": "mean"}}
TAGS = "O,B-x,I-x"


@dataclass(frozen=True)
class Case:
    """One folder."""

    options: dict[str, Any]  # fields of PEFT's config
    family: str = "bert"
    model: str = "SEQ_CLS"  # key of `CLASSES`: the model that PEFT wraps
    task: str | None = "same"  # task_type; "same" is the model's
    outputs: int = 3  # number of the head's outputs
    edit: dict[str, Any] = field(default_factory=dict)  # fields of adapter_config.json that are changed after saving
    files: dict[str, Any] = field(default_factory=dict)  # JSON files that lie beside the adapter
    without: str = ""  # tensors whose names hold this are taken out after saving
    rename: tuple[tuple[str, str], ...] = ()  # parts of tensor names that are replaced after saving
    half: bool = False  # weights are stored in float16
    labels: str | None = None  # --labels of the import
    refused: str = ""  # part of the message with which the import refuses it; "" where the logits are equal

    @property
    def task_type(self) -> str | None:
        """Returns the field of PEFT's config."""
        known = {"SEQ_CLS": "SEQ_CLS", "TOKEN_CLS": "TOKEN_CLS", "PLAIN": "FEATURE_EXTRACTION", "IMAGE": None}
        return known[self.model] if self.task == "same" else self.task


def lora(*targets: str, **options: Any) -> dict[str, Any]:
    """Fields of a LoRA config."""
    return {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "target_modules": list(targets) or ["query", "value"],
        **options,
    }


def expression(text: str, **options: Any) -> dict[str, Any]:
    """Fields of a LoRA config whose target_modules is a regular expression."""
    return lora(**options) | {"target_modules": text}


IA3 = {"peft_type": "IA3", "target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
VERA = {"peft_type": "VERA", "r": 8, "target_modules": ["query", "value"], "projection_prng_key": 5}
NORMS = {"peft_type": "LN_TUNING", "target_modules": ["output.LayerNorm"]}
MODERN = {"family": "modernbert", "model": "PLAIN", "files": {"topgraft.json": POOLED}}
IMAGE = {"family": "vit", "model": "IMAGE"}
TAGGER = {"model": "TOKEN_CLS", "labels": TAGS}

CASES: dict[str, Case] = {
    # which layers
    "plain": Case(lora()),
    "all_linear": Case(expression("all-linear"), refused="bert.pooler.dense"),
    "all_linear_without_pooler": Case(expression("all-linear", exclude_modules=["pooler.dense"])),
    "dense": Case(lora("query", "dense"), refused="bert.pooler.dense"),
    "embeddings": Case(lora("query", "word_embeddings"), refused="word_embeddings"),
    "expression": Case(expression(r".*attention\.self\.(query|key)")),
    "expression_anchored": Case(expression(r"^bert\.encoder\.layer\.[01]\..*query$")),
    "expression_ignores_case": Case(expression(r"(?i).*\.QUERY")),
    "full_names": Case(lora("bert.encoder.layer.0.attention.self.query", "layer.1.output.dense")),
    "exclude": Case(lora("query", "key", exclude_modules=["layer.0.attention.self.query"])),
    "exclude_expression": Case(lora("query", "key", exclude_modules=r".*layer\.1\..*")),
    "exclude_anchored": Case(lora("query", "key", exclude_modules=r"encoder\.layer\.1\..*")),
    "one_layer": Case(lora("query", layers_to_transform=1)),
    "layers": Case(lora("query", "value", layers_to_transform=[0, 1], layers_pattern="layer")),
    "layers_of_full_names": Case(
        lora("bert.encoder.layer.1.attention.self.key", "query", layers_to_transform=[0], layers_pattern=["layer"])
    ),
    "default_targets": Case(lora(), edit={"target_modules": None}),
    "no_default_targets": Case(
        lora("q_lin"), family="distilbert", edit={"target_modules": None}, **TAGGER, refused="target_modules"
    ),
    "fewer_targets": Case(lora(), edit={"target_modules": ["query"]}, refused="not chosen"),
    "more_targets": Case(lora(), edit={"target_modules": ["query", "key", "value"]}, refused="chosen, but"),
    "bad_expression": Case(lora(), edit={"target_modules": "(query"}, refused="no regular expression"),
    # which rank and alpha
    "ranks": Case(
        lora("query", "key", "intermediate.dense", rank_pattern={"query": 2, "layer.1.intermediate.dense": 7})
    ),
    "alphas": Case(lora("query", "key", alpha_pattern={"layer.1.attention.self.key": 3, "query": 20})),
    "alpha_anchored": Case(lora(alpha_pattern={"^encoder.layer.0.attention.self.query": 60})),
    "alpha_anchored_whole": Case(lora(alpha_pattern={"^bert.encoder.layer.0.attention.self.query": 60})),
    "alpha_first_wins": Case(lora(alpha_pattern={".*value": 5, "self.value": 17})),
    "alpha_part": Case(lora(alpha_pattern={"uery": 60, "self": 50})),
    "alpha_alternatives": Case(lora("query", "key", "value", alpha_pattern={"query|layer.0.attention.self.key": 40})),
    "ranks_and_alphas_stabilised": Case(
        lora("query", "output.dense", use_rslora=True, rank_pattern={"query": 2}, alpha_pattern={r"\d.output.dense": 9})
    ),
    "stabilised": Case(lora(use_rslora=True)),
    "another_rank": Case(lora(), edit={"r": 5}, refused="r and rank_pattern say 5"),
    "zero_alpha": Case(lora(), edit={"lora_alpha": 0}, refused="lora_alpha"),
    # how they act
    "dora": Case(lora("query", "intermediate.dense", use_dora=True)),
    "dora_ranks": Case(lora("query", "output.dense", use_dora=True, rank_pattern={"query": 1}, use_rslora=True)),
    "dropout": Case(lora(lora_dropout=0.3)),
    "fan_in_fan_out": Case(lora(), edit={"fan_in_fan_out": True}),
    "bias_of_layers": Case(lora("query", "intermediate.dense", bias="lora_only")),
    "bias_of_all": Case(lora(bias="all"), refused="bias: 'all'"),
    "bias_of_b": Case(lora("query", "output.dense", lora_bias=True, alpha_pattern={"query": 3})),
    "half_precision": Case(lora(), half=True),
    "gaussian": Case(lora(init_lora_weights="gaussian")),
    "random_start": Case(lora(init_lora_weights=False)),
    "orthogonal": Case(lora(init_lora_weights="orthogonal")),
    "mica": Case(lora(init_lora_weights="mica")),
    "pissa": Case(lora(init_lora_weights="pissa"), refused="init_lora_weights"),
    "olora": Case(lora(init_lora_weights="olora"), refused="init_lora_weights"),
    "tokens": Case(lora(trainable_token_indices={"word_embeddings": [3, 4]}), refused="trainable_token_indices"),
    "newer_field": Case(lora(), edit={"use_something_new": True}, refused="use_something_new"),
    # which head
    "classifier_named": Case(lora(modules_to_save=["classifier"])),
    "pooler_saved": Case(lora(modules_to_save=["pooler", "classifier"]), refused="bert.pooler.dense"),
    "no_task": Case(lora(modules_to_save=["classifier"]), task=None),
    "no_task_no_class": Case(
        lora(modules_to_save=["classifier"]), task=None, edit={"auto_mapping": None}, refused="task_type"
    ),
    "no_task_tagger": Case(lora(modules_to_save=["classifier"]), task=None, **TAGGER),
    "headless": Case(lora(), without="classifier", refused="needs its head"),
    "one_number": Case(lora(), outputs=1),
    "several_numbers": Case(lora(), files={"config.json": {"problem_type": "regression"}}, refused="problem_type"),
    "several_labels": Case(lora(), files={"config.json": {"problem_type": "multi_label_classification"}}),
    "named_by_the_model": Case(
        lora(), files={"config.json": {"id2label": {"0": "x", "1": "y", "2": "z"}, "problem_type": None}}
    ),
    "tagger": Case(lora(), **TAGGER),
    "tagger_named_by_the_model": Case(
        lora(), model="TOKEN_CLS", files={"config.json": {"id2label": {"0": "O", "1": "B-x", "2": "I-x"}}}
    ),
    "tagger_without_tags": Case(lora(), model="TOKEN_CLS", refused="TOKEN_CLS"),
    "questions": Case(lora(), edit={"task_type": "QUESTION_ANS"}, refused="QUESTION_ANS"),
    "encoder": Case(
        lora(alpha_pattern={"^encoder.layer.0.attention.self.query": 60}),
        model="PLAIN",
        files={"topgraft.json": POOLED},
    ),
    "encoder_without_head": Case(lora(), model="PLAIN", refused="needs its head"),
    # other types
    "ia3": Case(IA3),
    "ia3_expressions": Case(
        {
            "peft_type": "IA3",
            "target_modules": r".*\.(key|intermediate\.dense)",
            "feedforward_modules": r".*intermediate.*",
        }
    ),
    "ia3_exclude": Case(IA3 | {"exclude_modules": ["layer.0.output.dense", "pooler.dense"]}),
    "ia3_tagger": Case(IA3, **TAGGER),
    "vera": Case(VERA),
    "vera_layers": Case(VERA | {"layers_to_transform": [1], "target_modules": ["query", "intermediate.dense"]}),
    "vera_seed_alone": Case(VERA | {"save_projection": False}),
    "vera_dropout": Case(VERA | {"vera_dropout": 0.2}),
    "vera_bias": Case(VERA | {"bias": "all"}, refused="bias: 'all'"),
    "norms": Case(NORMS),
    "norms_of_embeddings": Case(NORMS | {"target_modules": ["LayerNorm"]}, refused="bert.embeddings.LayerNorm"),
    "adalora": Case(
        {"peft_type": "ADALORA", "target_modules": ["query"], "total_step": 10, "tinit": 1, "tfinal": 1},
        refused="peft_type",
    ),
    "loha": Case({"peft_type": "LOHA", "target_modules": ["query"], "r": 2}, refused="peft_type"),
    "oft": Case({"peft_type": "OFT", "target_modules": ["query"], "oft_block_size": 4}, refused="peft_type"),
    # other families
    "distilbert": Case(lora("q_lin", "v_lin"), family="distilbert", refused="no single layer"),
    "distilbert_tagger": Case(lora("q_lin", "lin1", rank_pattern={"lin1": 2}), family="distilbert", **TAGGER),
    "distilbert_encoder": Case(
        expression("all-linear"), family="distilbert", model="PLAIN", files={"topgraft.json": POOLED}
    ),
    "distilbert_norms": Case(
        NORMS | {"target_modules": ["sa_layer_norm", "output_layer_norm"]}, family="distilbert", **TAGGER
    ),
    "roberta": Case(lora(), family="roberta", refused="no single layer"),
    "roberta_tagger": Case(lora("query", "intermediate.dense", use_rslora=True), family="roberta", **TAGGER),
    "roberta_ia3": Case(IA3, family="roberta", **TAGGER),
    "roberta_encoder_dora": Case(lora(use_dora=True), family="roberta", model="PLAIN", files={"topgraft.json": POOLED}),
    "xlm_roberta_tagger": Case(VERA, family="xlm-roberta", **TAGGER),
    "modernbert": Case(lora("Wqkv"), **MODERN),
    "modernbert_all": Case(expression("all-linear", use_rslora=True, alpha_pattern={"attn.Wo": 17, "Wi": 2}), **MODERN),
    "modernbert_dora": Case(lora("Wqkv", "Wi", use_dora=True, rank_pattern={"layers.1.attn.Wqkv": 2}), **MODERN),
    "modernbert_ia3": Case(
        {"peft_type": "IA3", "target_modules": ["Wqkv", "mlp.Wo"], "feedforward_modules": ["mlp.Wo"]}, **MODERN
    ),
    "modernbert_ia3_inputs": Case(
        {"peft_type": "IA3", "target_modules": ["Wqkv"], "feedforward_modules": ["Wqkv"]}, **MODERN
    ),
    "modernbert_vera": Case(VERA | {"target_modules": ["Wo"]}, **MODERN),
    "modernbert_vera_fused": Case(VERA | {"target_modules": ["Wqkv"]}, **MODERN, refused="query, key and value"),
    "modernbert_norms": Case(NORMS | {"target_modules": ["mlp_norm", "layers.1.attn_norm"]}, **MODERN),
    "modernbert_classifier": Case(lora("Wqkv"), family="modernbert", refused="no single layer"),
    "modernbert_tagger": Case(lora("Wqkv"), family="modernbert", **TAGGER, refused="no single layer"),
    "vit": Case(lora("q_proj", "v_proj", modules_to_save=["classifier"]), **IMAGE),
    "vit_all": Case(expression("all-linear", modules_to_save=["classifier"], use_dora=True), **IMAGE),
    "vit_classifier_adapted": Case(expression("all-linear"), **IMAGE, refused="classifier"),
    "vit_former_names": Case(
        lora("q_proj", "fc1", modules_to_save=["classifier"], alpha_pattern={"fc1": 3}),
        **IMAGE,
        rename=(
            ("vit.layers.", "vit.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("mlp.fc1", "intermediate.dense"),
        ),
        edit={"target_modules": ["query", "intermediate.dense"], "alpha_pattern": {"intermediate.dense": 3}},
    ),
    "vit_ia3": Case(
        {
            "peft_type": "IA3",
            "target_modules": ["k_proj", "fc2"],
            "feedforward_modules": ["fc2"],
            "modules_to_save": ["classifier"],
        },
        **IMAGE,
    ),
    "vit_norms": Case(
        NORMS | {"target_modules": ["layernorm_before", "layernorm_after"], "modules_to_save": ["classifier"]}, **IMAGE
    ),
}


def trunk(family: str, folder: Path) -> Path:
    """Saves the family's tiny encoder as transformers does, once, and returns its folder."""
    path = folder / "trunks" / family
    if path.exists():
        return path
    torch.manual_seed(2)
    changes = {"vocab_size": SPEC.vocabulary, "pad_token_id": 0} if family in TEXT else {}
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family] | changes, attn_implementation="eager")
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(path)
    if family in TEXT:
        (path / "tokenizer.json").write_text(tokenizer_json())
    else:
        values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": CONFIGS[family]["image_size"]}
        (path / "preprocessor_config.json").write_text(json.dumps(values))
    return path


def base(case: Case, folder: Path) -> transformers.PreTrainedModel:
    """Returns the model that PEFT wraps, with the weights of `trunk` and a head that is the same each time."""
    torch.manual_seed(3)
    named = {} if case.model == "PLAIN" else {"num_labels": case.outputs}
    return CLASSES[case.model].from_pretrained(trunk(case.family, folder), attn_implementation="eager", **named).eval()


def inputs(family: str) -> dict[str, torch.Tensor]:
    """Returns 8 texts as ids and mask, or 4 images."""
    if family not in TEXT:
        pixels = images(family, 4, seed=4)
        return {"pixel_values": (torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5}
    encoded = preprocessing_of().encode([text for text, _ in rows(8, seed=4)], 24)
    ids, mask = pad(encoded, max(map(len, encoded)))
    return {"input_ids": torch.tensor(ids, dtype=torch.long), "attention_mask": torch.tensor(mask, dtype=torch.long)}


@torch.inference_mode()
def logits(model: Any, case: Case, head: Mapping[str, torch.Tensor] | None) -> np.ndarray:
    """Returns what a model says; of the plain encoder what `head` makes of its mean state."""
    given = inputs(case.family)
    output = model.eval()(**given)
    if case.model != "PLAIN":
        return output.logits.numpy()
    mask = given["attention_mask"][..., None]
    pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
    return pooled.numpy() if head is None else (pooled @ head["weight"].T + head["bias"]).numpy()


@contextmanager
def quietly() -> Iterator[None]:
    """Spares PEFT's and transformers' warnings about folders that are meant to be odd."""
    import warnings

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(verbosity)


def make(name: str, folder: Path) -> tuple[Path, np.ndarray | None, np.ndarray]:
    """Writes a case's folder; returns it, the logits that PEFT gives, and those of the model without the adapter.

    Where PEFT does not load the changed folder, the first are those before the change, or None if it was no renaming.
    """
    case, out = CASES[name], folder / name / "peft"
    with quietly():
        model = peft.get_peft_model(
            base(case, folder), peft.get_peft_config({"task_type": case.task_type, **case.options})
        )
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(out)
        head = _head_beside(case, out)
        before = logits(model, case, head)
        _change(case, out)
        plain = logits(base(case, folder), case, head)
        return out, before if case.rename else loaded(case, out, folder, head), plain


def loaded(
    case: Case, adapter: Path, folder: Path, head: Mapping[str, torch.Tensor] | None = None
) -> np.ndarray | None:
    """Returns the logits of a folder as PEFT loads it; None where PEFT does not."""
    with quietly():
        if case.model == "PLAIN" and head is None and (adapter / "topgraft_head.safetensors").exists():
            head = load_file(adapter / "topgraft_head.safetensors")
        try:
            return logits(peft.PeftModel.from_pretrained(base(case, folder), adapter), case, head)
        except Exception:  # noqa: BLE001 - PEFT says no in many ways
            return None


def _head_beside(case: Case, out: Path) -> dict[str, torch.Tensor] | None:
    """Writes the head of an adapter of the plain encoder, where the case has one."""
    for file, content in case.files.items():
        (out / file).write_text(json.dumps(content))
    if "topgraft.json" not in case.files:
        return None
    width = json.loads((out.parent.parent / "trunks" / case.family / "config.json").read_text())
    draw = torch.Generator().manual_seed(5)
    head = {"weight": torch.randn(case.outputs, width.get("hidden_size") or width["dim"], generator=draw)}
    head["bias"] = torch.randn(case.outputs, generator=draw)
    save_file(head, out / "topgraft_head.safetensors")
    return head


def _change(case: Case, out: Path) -> None:
    """Changes a saved folder as the case says."""
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | case.edit, indent=2))
    tensors = load_file(out / "adapter_model.safetensors")
    changed = {}
    for key, value in tensors.items():
        for former, present in case.rename:
            key = key.replace(former, present)
        if not case.without or case.without not in key:
            changed[key] = value.half() if case.half else value
    save_file(changed, out / "adapter_model.safetensors", metadata={"format": "pt"})


def clear(folder: Path) -> None:
    """Removes the folders of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
