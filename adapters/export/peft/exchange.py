"""Export and import of PEFT folders: everything around the tensors of the one method."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from adapters.artefact.manifest import Training
from adapters.artefact.write import save_graft
from adapters.export.peft.codec import CONFIG, Codec
from adapters.export.peft.folder import EXTRA_FILE, HEAD, extra_fields, folder_of, read_config, read_weights
from adapters.export.peft.ia3 import IA3Codec
from adapters.export.peft.layers import PREFIX, WEIGHTS, Layer, Tensors, family_of, layers_of, task_prefix
from adapters.export.peft.lora import LoraCodec, uniform
from adapters.export.peft.norm import NormCodec
from adapters.export.peft.task import CLASSIFIER, read_head, write_head
from adapters.export.peft.vera import VeraCodec
from adapters.export.problems import Problem
from adapters.graft import Graft, dropped, load_graft, require_every_token
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.patterns import Site
from backbone.errors import InputError
from backbone.files import new_folder
from backbone.storage import Backbone, load_backbone

log = logging.getLogger("topgraft")

CODECS: dict[str, Codec] = {codec.peft_type: codec for codec in (LoraCodec(), IA3Codec(), VeraCodec(), NormCodec())}


@dataclass(frozen=True)
class Exchange:
    """The result of an export or import."""

    path: str  # folder written
    content_id: str  # content_id of the graft
    method: str  # tag of the graft's first method
    sites: int  # number of sites at which it acts
    task: str  # PEFT's task type: SEQ_CLS, TOKEN_CLS or FEATURE_EXTRACTION
    head: str  # kind of the graft's head
    labels: tuple[str, ...]  # names of the labels
    dropped: tuple[str, ...] = ()  # parts of the graft for which PEFT has no place
    notes: tuple[str, ...] = ()  # what was assumed of a folder, or left out as PEFT leaves it out


def export_peft(
    graft: str | Path, out: str | Path, *, backbone: str | Path | None = None, vllm: bool = False
) -> Exchange:
    """Writes the graft as a PEFT folder; raises InputError if PEFT has no place for its methods or head.

    With `vllm` the folder is one that vLLM reads rightly: a LoRA of one rank and one scale.
    """
    loaded = load_graft(graft, backbone)
    model, manifest = loaded.model, loaded.manifest
    assert manifest is not None
    require_every_token(loaded, str(graft))
    codec = _codec_of(loaded, str(graft), vllm)
    family, name = family_of(loaded.backbone), model.methods[0].tag
    head = write_head(model, loaded.params["head"], family, manifest.max_tokens)
    if vllm and head.task == "TOKEN_CLS":
        raise InputError(f"{graft}: vLLM reads the head of a sequence classifier from an adapter, not that of a tagger")
    sites = model.site_parts[name][1]
    layers = _adapted(loaded.backbone, codec, sites, task_prefix(loaded.backbone) if head.inside else "")
    tensors, fields = codec.write(model, loaded.params["adapter"][name], loaded.backbone, layers)
    if vllm:
        tensors, fields = uniform(tensors, fields)
    if head.inside:
        tensors |= {CLASSIFIER + part: value for part, value in head.tensors.items()}
    config = {
        "peft_type": codec.peft_type,
        "task_type": head.task,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(layer.name for layer in layers),
        "modules_to_save": ["classifier"] if head.inside else None,
        **fields,
    }
    out = Path(out)
    with new_folder(out) as folder:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if not head.inside:
            save_file(head.tensors, folder / HEAD, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / EXTRA_FILE).write_text(json.dumps(head.extra, indent=2), encoding="utf-8")
    lost = dropped([loaded], "a PEFT folder")
    kind = model.head.kind
    return Exchange(str(out), manifest.content_id, name, len(sites), head.task, kind, model.labels, lost)


def _codec_of(graft: Graft, where: str, vllm: bool) -> Codec:
    """Returns the codec of the graft's one method; raises InputError where PEFT, or vLLM, has no place for it."""
    model = graft.model
    tag = model.methods[0].tag if len(model.methods) == 1 else None
    codec = next((codec for codec in CODECS.values() if tag in codec.methods), None)
    if codec is None or "peft" not in model.head.supports:
        known = ", ".join(name for codec in CODECS.values() for name in codec.methods)
        parts = ", ".join([*(method.tag for method in model.methods), model.head.kind])
        raise InputError(f"{where}: PEFT export takes one of {known} with a head that PEFT has; this graft has {parts}")
    if model.sides > 1 or model.head.pooling == "attention":
        raise InputError(f"{where}: PEFT has no head with pair={model.head.pair} and pooling={model.head.pooling}")
    if vllm and tag != "lora":
        raise InputError(f"{where}: vLLM reads LoRA alone; this graft has {tag}")
    return codec


def _adapted(backbone: Backbone, codec: Codec, sites: Sequence[Site] | dict[Site, object], prefix: str) -> list[Layer]:
    """Returns the layers that hold adapted sites, in order."""
    everywhere = layers_of(backbone, codec.kind, prefix)
    return [layer for layer in everywhere if any(site in sites for site in layer.sites)]


def import_peft(
    source: str | Path,
    backbone: str | Path,
    out: str | Path,
    *,
    labels: str | None = None,
    problem: Problem | None = None,
    max_tokens: int | None = None,
) -> Exchange:
    """Writes a graft from a PEFT folder; raises InputError naming any field or tensor that does not fit.

    `labels` are names, comma separated, or a file with one name a line. Without them those of a Topgraft export or of
    the wrapped model's config.json are taken, or LABEL_0, LABEL_1, ... `problem` is transformers' `problem_type`, and
    `max_tokens` the length of the longest text; by default it is the backbone's.
    """
    ready_to_compute()
    source, out = Path(source), Path(out)
    config, codec = read_config(source, CODECS)
    left = read_weights(source)
    trunk = load_backbone(backbone)
    family = family_of(trunk)
    folder = folder_of(source, config, codec, family)
    begin = f"{PREFIX}{task_prefix(trunk)}"
    inside = any(key.startswith(begin) for key in left)
    adapter = codec.read(folder, left, trunk)
    images = trunk.spec.image is not None
    head = read_head(folder, left, family, trunk.spec.width, images=images, labels=labels, problem=problem)
    if left:
        raise InputError(_unplaced(source, codec, left))
    if head.task != "FEATURE_EXTRACTION" and not inside:
        raise InputError(
            f"{source / WEIGHTS}: with task_type {head.task} the names of adapted layers begin with {begin}; these are "
            "those of the plain encoder, which PEFT would leave out"
        )
    model = GraftModel(trunk.network, adapter.methods, head.head, head.names)
    manifest = save_graft(
        out,
        model,
        {"adapter": adapter.leaves, "head": head.params},
        trunk,
        name=source.resolve().name,
        max_tokens=_max_tokens(max_tokens, extra_fields(source).get("max_tokens"), trunk.preprocessing.max_tokens),
        training=Training(
            config={"imported_from": "peft", "backbone_path": str(Path(backbone).resolve())},
            seeds={},
            data={},
            metrics={},
            costs={},
            versions={},
        ),
    )
    notes = adapter.notes + head.notes
    for note in notes:
        log.warning("%s", note)
    sites, tag = len(model.site_parts[adapter.methods[0].tag][1]), adapter.methods[0].tag
    return Exchange(str(out), manifest.content_id, tag, sites, head.task, head.head.kind, head.names, (), notes)


def _unplaced(source: Path, codec: Codec, left: Tensors) -> str:
    """Returns the message about tensors that no part of a graft takes."""
    names = ", ".join(sorted(left)[:5])
    return (
        f"{source / WEIGHTS}: tensors that a {codec.title} with a head does not have: {names}; a graft adapts layers "
        "of attention and mlp (target_modules) and holds a classifier (modules_to_save), nothing else"
    )


def _max_tokens(requested: int | None, stored: object, longest: int) -> int:
    """Returns the length at which texts are cut; raises InputError for one beyond the backbone's longest input."""
    if requested is not None and not 1 <= requested <= longest:
        raise InputError(f"--max-tokens: must lie in 1..{longest}, the backbone's longest input, got {requested}")
    return requested or min(stored if isinstance(stored, int) and stored > 0 else longest, longest)
