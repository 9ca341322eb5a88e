"""Export and import of PEFT folders: everything around the tensors of the one method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adapters.artefact.manifest import Training
from adapters.artefact.write import save_graft
from adapters.export.peft.codec import CONFIG, WEIGHTS, Codec, family_of, transposed
from adapters.export.peft.folder import (
    CLASSIFIER,
    EXTRA_FILE,
    HEAD,
    extra_fields,
    head_of_folder,
    label_names,
    read_config,
)
from adapters.export.peft.ia3 import IA3Codec
from adapters.export.peft.lora import LoraCodec
from adapters.export.peft.norm import NormCodec
from adapters.export.peft.vera import VeraCodec
from adapters.graft import dropped, load_graft
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.files import new_folder
from backbone.importing import read_safetensors
from backbone.records import encode
from backbone.storage import load_backbone

CODECS: dict[str, Codec] = {codec.peft_type: codec for codec in (LoraCodec(), IA3Codec(), VeraCodec(), NormCodec())}


@dataclass(frozen=True)
class Exchange:
    """The result of an export or import."""

    path: str  # folder written
    content_id: str  # content_id of the graft
    method: str  # tag of the graft's method
    sites: int  # number of sites at which it acts
    task: str  # PEFT's task type: SEQ_CLS or FEATURE_EXTRACTION
    labels: tuple[str, ...]  # names of the labels
    dropped: tuple[str, ...] = ()  # parts of the graft for which PEFT has no place


def export_peft(graft: str | Path, out: str | Path, *, backbone: str | Path | None = None) -> Exchange:
    """Writes the graft as a PEFT folder; raises InputError if PEFT has no place for its methods or head."""
    loaded = load_graft(graft, backbone)
    model, manifest = loaded.model, loaded.manifest
    assert manifest is not None
    tag = model.methods[0].tag if len(model.methods) == 1 else None
    codec = next((codec for codec in CODECS.values() if tag in codec.methods), None)
    if codec is None or "peft" not in model.head.supports:
        known = ", ".join(name for codec in CODECS.values() for name in codec.methods)
        parts = ", ".join([*(method.tag for method in model.methods), model.head.kind])
        raise InputError(
            f"{graft}: PEFT export takes one of {known} with a classification head; this graft has {parts}"
        )
    if model.sides > 1 or model.head.pooling == "attention":
        raise InputError(f"{graft}: PEFT has no head with pair={model.head.pair} and pooling={model.head.pooling}")
    family, name = family_of(loaded.backbone), model.methods[0].tag
    whole = model.head.pooling == family.task_pooling

    def module(site: Site) -> str:
        theirs = family.site_module(site.block, site.name)
        if theirs is None:
            raise InputError(f"{graft}: {site.full_name}: transformers' {family.tag} has no layer of its own here")
        return f"{family.task_prefix}.{theirs}" if whole else theirs

    tensors, fields = codec.write(model, loaded.params["adapter"][name], loaded.backbone, module)
    head = {
        "weight": transposed(loaded.params["head"]["kernel"]),
        "bias": np.array(loaded.params["head"]["bias"], np.float32),
    }
    if whole:
        tensors |= {CLASSIFIER + part: value for part, value in head.items()}
    sites = model.site_parts[name][1]
    config = {
        "peft_type": codec.peft_type,
        "task_type": "SEQ_CLS" if whole else "FEATURE_EXTRACTION",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(map(module, sites)),
        "modules_to_save": ["classifier"] if whole else None,
        **fields,
    }
    extra = {"labels": list(model.labels), "head": encode(model.head)}
    out = Path(out)
    with new_folder(out) as folder:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if not whole:
            save_file(head, folder / HEAD, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / EXTRA_FILE).write_text(json.dumps(extra, indent=2), encoding="utf-8")
    lost = dropped([loaded], "a PEFT folder")
    return Exchange(str(out), manifest.content_id, name, len(sites), str(config["task_type"]), model.labels, lost)


def import_peft(source: str | Path, backbone: str | Path, out: str | Path, *, labels: str | None = None) -> Exchange:
    """Writes a graft from a PEFT folder; raises InputError naming any field or tensor that does not fit.

    `labels` are names, comma separated, or a file with one name a line. Without them the folder's names are taken,
    or LABEL_0, LABEL_1, ...
    """
    ready_to_compute()
    source, out = Path(source), Path(out)
    config, codec = read_config(source, CODECS)
    left = read_safetensors(source / WEIGHTS)
    trunk = load_backbone(backbone)
    method, adapter = codec.read(source, config, left, trunk)
    head_spec, head = head_of_folder(source, left, codec.title, family_of(trunk))
    names = label_names(labels, extra_fields(source), head["kernel"].shape[1])
    model = GraftModel(trunk.network, (method,), head_spec, names)
    manifest = save_graft(
        out,
        model,
        {"adapter": {method.tag: adapter}, "head": head},
        trunk,
        name=source.resolve().name,
        max_tokens=min(128, trunk.preprocessing.max_tokens),
        training=Training(
            config={"imported_from": "peft", "backbone_path": str(Path(backbone).resolve())},
            seeds={},
            data={},
            metrics={},
            costs={},
            versions={},
        ),
    )
    sites = sum(len(places) for places in adapter.values())
    return Exchange(str(out), manifest.content_id, method.tag, sites, str(config.get("task_type")), names)
