"""A backbone folder to Hugging Face's layout: `config.json`, `model.safetensors`, `tokenizer.json`.

    export_hf("runs/text_mlm", "out")

A run of `train-backbone` that holds a head of masked language modelling is exported with it (`BertForMaskedLM`).
A run with another head, or a plain backbone folder, is exported without one (`BertModel`). The weights are the
stored ones, float32: importing the folder again gives the same `weights_id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from backbone.errors import InputError
from backbone.families import Family, find_family
from backbone.files import BACKBONE_FILE, new_folder
from backbone.images import ImagePreprocessing
from backbone.network.masked_head import abstract_head, holds_masked_head, load_head
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec
from backbone.storage import load_backbone
from backbone.trees import flatten
from backbone.variants.registered import variants


@dataclass(frozen=True)
class ExportReport:
    """The result of an export."""

    path: str  # the new folder
    architecture: str  # class of transformers that loads it
    weights_id: str  # identity of the backbone
    tensors: int  # number of tensors in the file
    head: bool  # the head of masked language modelling is included


def export_hf(source: str | Path, out: str | Path) -> ExportReport:
    """Writes a backbone, or a run of `train-backbone`, as the new folder `out`.

    Raises InputError for a family that has no export, or a folder that is neither.
    """
    source, out = Path(source), Path(out)
    inside = source / "backbone"
    is_run = (inside / BACKBONE_FILE).is_file()
    backbone = load_backbone(inside if is_run else source, precision="float32")
    family = _exportable_family(source, backbone.source.get("family", ""))
    preprocessing = backbone.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        raise InputError(f"{source}: it reads images; only backbones that read text can be exported")
    with_head = is_run and holds_masked_head(source)
    config = family.config(backbone.spec, masked=with_head)
    _require_holds(source, family, backbone.spec, config)
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in flatten(backbone.params).items():
        tensors |= family.release(path, np.asarray(leaf))
    if with_head:
        head = load_head(source, abstract_head(backbone.spec), backbone.weights_id)
        tensors = {f"{family.task_prefix}.{key}": value for key, value in tensors.items()} | family.release_head(head)
    config |= {"pad_token_id": preprocessing.fill}
    with new_folder(out) as folder:
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        _write_tokenizer(folder, preprocessing)
    return ExportReport(str(out), config["architectures"][0], backbone.weights_id, len(tensors), with_head)


def _exportable_family(source: Path, name: str) -> Family:
    """Returns the family of this name. Raises InputError if it does not exist or has no export."""
    family = find_family(name)
    if family is None or not family.exportable:
        known = ", ".join(tag for tag, other in variants(Family).items() if other.exportable)
        raise InputError(f"{source}: family {name!r} cannot be exported; only {known} can")
    return family


def _require_holds(source: Path, family: Family, spec: EncoderSpec, config: Mapping[str, Any]) -> None:
    """Raises InputError naming the fields of the architecture that the family's config does not hold."""
    read = family.spec(config, ())
    lost = [
        f"{field.name}={getattr(spec, field.name)}"
        for field in fields(spec)
        if field.name != "pooler" and getattr(read, field.name) != getattr(spec, field.name)
    ]
    if lost:
        raise InputError(
            f"{source}: family {family.tag!r} cannot hold {', '.join(lost)}; no other layout is known for it"
        )


def _write_tokenizer(folder: Path, preprocessing: TextPreprocessing) -> None:
    (folder / "tokenizer.json").write_text(preprocessing.tokenizer_json, encoding="utf-8")
    roles = _roles(preprocessing.tokenizer_json)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": preprocessing.max_tokens, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _roles(tokenizer_json: str) -> dict[str, str]:
    """Returns the tokenizer's special tokens by the role that transformers gives them."""
    known = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    spellings = {
        "pad_token": ("[PAD]", "<pad>"),
        "unk_token": ("[UNK]", "<unk>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
    }
    return {role: name for role, names in spellings.items() for name in names if name in known}
