"""A backbone folder to Hugging Face's layout: `config.json`, `model.safetensors`, `tokenizer.json`.

    export_hf("runs/text_mlm", "out")

A folder of `train-backbone` is exported with the head of masked language modelling beside its
backbone (`BertForMaskedLM`); a plain backbone folder without one (`BertModel`). The weights are those
that are stored, float32: importing the folder again gives the same `weights_id`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from backbone.errors import InputError
from backbone.families import FAMILIES
from backbone.families.family import Exportable
from backbone.files import BACKBONE_FILE, new_folder
from backbone.masked_head import HEAD_FILE, abstract_head, load_head
from backbone.storage import load_backbone
from backbone.trees import Params, flatten


@dataclass(frozen=True)
class ExportReport:
    """What an export did."""

    path: str  # the new folder
    architecture: str  # class of transformers that loads it
    weights_id: str  # of the backbone
    tensors: int
    head: bool  # the head of masked language modelling is included


def export_hf(source: str | Path, out: str | Path) -> ExportReport:
    """Writes a backbone, or a run of `train-backbone`, as the new folder `out`.

    Raises InputError for a family that has no export, or a folder that is neither.
    """
    source, out = Path(source), Path(out)
    inside = source / "backbone"
    is_run = (inside / BACKBONE_FILE).is_file()
    backbone = load_backbone(inside if is_run else source)
    name = backbone.source.get("family", "")
    family = FAMILIES.get(name)
    if not isinstance(family, Exportable):
        known = ", ".join(sorted(n for n, f in FAMILIES.items() if isinstance(f, Exportable)))
        raise InputError(f"{source}: family {name!r} cannot be exported; only {known} can")
    head: Params | None = None
    if is_run and (source / HEAD_FILE).is_file():
        head = load_head(source, abstract_head(backbone.spec), backbone.weights_id)
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in flatten(backbone.params).items():
        tensors |= family.release(path, np.asarray(leaf))
    if head is not None:
        tensors = {f"{family.task_prefix}.{key}": value for key, value in tensors.items()} | family.release_head(head)
    config: dict[str, Any] = family.config(backbone.spec, masked=head is not None)
    config["pad_token_id"] = backbone.preprocessing.fill
    with new_folder(out) as folder:
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (folder / "tokenizer.json").write_text(backbone.preprocessing.tokenizer_json, encoding="utf-8")
        roles = _roles(backbone.preprocessing.tokenizer_json)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": backbone.spec.positions, **roles}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return ExportReport(str(out), config["architectures"][0], backbone.weights_id, len(tensors), head is not None)


def _roles(tokenizer_json: str) -> dict[str, str]:
    """The special tokens by the role that transformers gives them, as far as the tokenizer has them."""
    known = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    spellings = {
        "pad_token": ("[PAD]", "<pad>"),
        "unk_token": ("[UNK]", "<unk>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
    }
    return {role: name for role, names in spellings.items() for name in names if name in known}
