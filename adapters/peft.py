"""LoRA to and from Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

PEFT keeps A as [r, I] and B as [O, r] under the module names of transformers; ours are [I, r] and
[r, O] under sites. With `head.pooling = pooler` the folder is one for `BertForSequenceClassification`
(task SEQ_CLS), head included. Other poolings have no class in transformers: the folder is one for the
plain encoder (FEATURE_EXTRACTION) and the head lies beside it in `topgraft_head.safetensors`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapters.artifact import save_graft
from adapters.graft import load_graft
from adapters.manifest import Training
from adapters.methods.lora import LoraSetting
from adapters.model import GraftModel
from adapters.patterns import Site, sites_of
from adapters.specs import Classification, Lora, LoraOverride
from backbone.errors import InputError, nearest
from backbone.families import FAMILIES, Family
from backbone.files import new_folder
from backbone.importing import read_safetensors
from backbone.records import decode, encode
from backbone.sites import LINEAR
from backbone.storage import Backbone, load_backbone
from backbone.trees import Params

CONFIG, WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "topgraft_head.safetensors"
OWN = "topgraft.json"  # what PEFT has no field for: names of the labels, settings of the head
PREFIX = "base_model.model."
CLASSIFIER = PREFIX + "classifier."

# Fields of adapter_config.json that change the computation in ways we do not have, with the values
# that mean "not used".
_UNUSED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
}


@dataclass(frozen=True)
class Exchange:
    """What an export or import did."""

    path: str  # folder written
    content_id: str  # of the graft
    sites: int  # linear sites with a LoRA
    task: str  # SEQ_CLS or FEATURE_EXTRACTION
    labels: tuple[str, ...]


def export_peft(graft: str | Path, out: str | Path, *, backbone: str | Path | None = None) -> Exchange:
    """Writes the graft as a PEFT folder; raises InputError if it is not a single LoRA with classification."""
    loaded = load_graft(graft, backbone)
    model, manifest = loaded.model, loaded.manifest
    assert manifest is not None
    if len(model.methods) != 1 or not isinstance(model.methods[0], Lora) or not isinstance(model.head, Classification):
        have = ", ".join([*(spec.method for spec in model.methods), model.head.kind])
        raise InputError(f"{graft}: PEFT export takes one LoRA with a classification head; this graft has {have}")
    family, spec = _family(loaded.backbone), model.methods[0]
    whole = model.head.pooling == family.task_pooling
    inner = f"{family.task_prefix}." if whole else ""
    settings: dict[Site, LoraSetting] = model.site_parts["lora"][1]
    tensors: dict[str, np.ndarray] = {}
    modules: dict[str, LoraSetting] = {}
    for site, setting in settings.items():
        theirs = family.site_module(site.block, site.name)
        if theirs is None:
            raise InputError(
                f"{graft}: {site.full_name}: transformers' {family.name} has no dense layer of its own here"
            )
        module = inner + theirs
        leaves = loaded.params["adapter"]["lora"][str(site.block)][site.name]
        modules[module] = setting
        tensors[f"{PREFIX}{module}.lora_A.weight"] = _transposed(leaves["a"])
        tensors[f"{PREFIX}{module}.lora_B.weight"] = _transposed(leaves["b"])
    head = {
        "weight": _transposed(loaded.params["head"]["kernel"]),
        "bias": np.array(loaded.params["head"]["bias"], np.float32),
    }
    if whole:
        tensors |= {CLASSIFIER + name: value for name, value in head.items()}
    config = _peft_config(spec, modules, whole)
    own = {"labels": list(model.labels), "head": encode(model.head)}
    out = Path(out)
    with new_folder(out) as folder:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if not whole:
            save_file(head, folder / HEAD, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / OWN).write_text(json.dumps(own, indent=2), encoding="utf-8")
    return Exchange(str(out), manifest.content_id, len(modules), config["task_type"], model.labels)


def _transposed(leaf: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(leaf, np.float32).T)


def _peft_config(spec: Lora, modules: Mapping[str, LoraSetting], whole: bool) -> dict[str, Any]:
    root = spec.scaling == "rank_stabilised"
    alphas = {m: s.scale * (s.rank**0.5 if root else s.rank) for m, s in modules.items()}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if whole else "FEATURE_EXTRACTION",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "use_rslora": root,
        "target_modules": sorted(modules),
        "rank_pattern": {m: s.rank for m, s in modules.items() if s.rank != spec.rank},
        "alpha_pattern": {m: round(a, 9) for m, a in alphas.items() if abs(a - spec.alpha) > 1e-9 * spec.alpha},
        "modules_to_save": ["classifier"] if whole else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
    }


def import_peft(source: str | Path, backbone: str | Path, out: str | Path, *, labels: str | None = None) -> Exchange:
    """Writes a graft from a PEFT LoRA folder; raises InputError naming any field or tensor that does not fit.

    `labels` are names, comma separated or a file with one a line; without them the folder's own, or
    LABEL_0, LABEL_1, ...
    """
    source, out = Path(source), Path(out)
    config = _read_config(source)
    tensors = read_safetensors(source / WEIGHTS)
    trunk = load_backbone(backbone)
    spec, adapter, left = _lora_of(source, config, tensors, trunk)
    head_spec, head = _head_of(source, config, left)
    names = _labels(labels, _own(source), head["kernel"].shape[1])
    model = GraftModel(trunk.network, (spec,), head_spec, names)
    manifest = save_graft(
        out,
        model,
        {"adapter": {"lora": adapter}, "head": head},
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
    sites = sum(len(names) for names in adapter.values())
    return Exchange(str(out), manifest.content_id, sites, str(config.get("task_type")), names)


def _read_config(source: Path) -> dict[str, Any]:
    file = source / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{source}: not a PEFT folder: {CONFIG}: {error}") from error
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from error
    if config.get("peft_type") != "LORA":
        raise InputError(f"{file}: peft_type: {config.get('peft_type')!r} is not supported; only LORA is")
    for field, allowed in _UNUSED.items():
        if field in config and config[field] not in allowed:
            raise InputError(f"{file}: {field}: {config[field]!r} is not supported")
    return dict(config)


def _lora_of(
    source: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], backbone: Backbone
) -> tuple[Lora, Params, dict[str, np.ndarray]]:
    """The spec, the parameters by block and site, and the tensors that were not used."""
    family = _family(backbone)
    named = ((family.site_module(site.block, site.name), site) for site in sites_of(backbone.spec, LINEAR))
    by_module = {module: site for module, site in named if module is not None}
    adapter: Params = {}
    found: dict[Site, tuple[int, float]] = {}
    left, problems = dict(tensors), []
    for key in tensors:
        match = re.fullmatch(rf"{re.escape(PREFIX)}(?:{re.escape(family.task_prefix)}\.)?(.+)\.lora_A\.weight", key)
        if not match:
            continue
        site, other = by_module.get(match[1]), key.replace(".lora_A.", ".lora_B.")
        if site is None or other not in tensors:
            close = nearest(match[1], by_module)
            problems.append(
                f"{key}: no such dense layer in this backbone ({close})" if site is None else f"{other}: missing"
            )
            continue
        a, b = left.pop(key).T, left.pop(other).T
        if a.shape[0] != site.inputs or b.shape != (a.shape[1], site.outputs):
            problems.append(f"{key}: A {a.shape}, B {b.shape} do not fit a layer {site.inputs} -> {site.outputs}")
            continue
        found[site] = (a.shape[1], _alpha_of(config, match[1]))
        adapter.setdefault(str(site.block), {})[site.name] = {
            "a": np.ascontiguousarray(a),
            "b": np.ascontiguousarray(b),
        }
    if problems or not found:
        shown = "\n  ".join(problems) or "no tensor named ...lora_A.weight"
        raise InputError(f"{source / WEIGHTS}: does not fit the backbone {backbone.path}:\n  {shown}")
    return _spec_of(config, found, backbone), adapter, left


def _alpha_of(config: Mapping[str, Any], module: str) -> float:
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", f"bert.{module}") or re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    return float(config.get("lora_alpha", 8))


def _spec_of(config: Mapping[str, Any], found: Mapping[Site, tuple[int, float]], backbone: Backbone) -> Lora:
    """The shortest Lora spec with exactly these sites, ranks and alphas."""
    (rank, alpha), _ = Counter(found.values()).most_common(1)[0]
    blocks = sorted({site.block for site in found})
    names = tuple(dict.fromkeys(site.name for site in sites_of(backbone.spec, LINEAR) if site in found))
    regular = blocks == list(range(blocks[0], blocks[-1] + 1)) and len(found) == len(blocks) * len(names)
    whole = len(blocks) == backbone.spec.blocks
    return Lora(
        rank=rank,
        alpha=alpha,
        sites=names if regular else tuple(site.full_name for site in found),
        overrides=tuple(
            LoraOverride(site.full_name, rank=r if r != rank else None, alpha=a if a != alpha else None)
            for site, (r, a) in found.items()
            if (r, a) != (rank, alpha)
        ),
        scaling="rank_stabilised" if config.get("use_rslora") else "standard",
        dropout=float(config.get("lora_dropout") or 0.0),
        blocks="" if whole or not regular else f"{blocks[0]}:{blocks[-1] + 1}",
    )


def _head_of(source: Path, config: Mapping[str, Any], left: dict[str, np.ndarray]) -> tuple[Classification, Params]:
    """The head from what the LoRA left over; raises InputError if anything else is left."""
    spec = Classification(pooling="pooler")
    if not any(key.startswith(CLASSIFIER) for key in left) and (source / HEAD).is_file():
        spec = decode(Classification, _own(source).get("head", {}), f"{source / OWN}: head")
        left |= {CLASSIFIER + name: value for name, value in read_safetensors(source / HEAD).items()}
    weight, bias = left.pop(CLASSIFIER + "weight", None), left.pop(CLASSIFIER + "bias", None)
    if weight is None or bias is None:
        raise InputError(
            f"{source / WEIGHTS}: holds no {CLASSIFIER}weight and bias: a graft needs its head; "
            f"save it in PEFT with task_type SEQ_CLS or modules_to_save=['classifier']"
        )
    if left:
        raise InputError(
            f"{source / WEIGHTS}: tensors that a LoRA with a head does not have: {', '.join(sorted(left)[:5])}"
        )
    return spec, {"kernel": np.ascontiguousarray(weight.T), "bias": bias}


def _own(source: Path) -> dict[str, Any]:
    """What a folder that was exported here says besides PEFT's config; empty for others."""
    if not (source / OWN).is_file():
        return {}
    try:
        return dict(json.loads((source / OWN).read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{source / OWN}: not JSON: {error}") from error


def _labels(given: str | None, own: Mapping[str, Any], count: int) -> tuple[str, ...]:
    if given is None:
        names = list(own.get("labels", [])) or [f"LABEL_{i}" for i in range(count)]
    elif Path(given).is_file():
        names = [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        names = [name.strip() for name in given.split(",")]
    if len(names) != count:
        raise InputError(f"--labels: {len(names)} names for a head with {count} outputs")
    return tuple(names)


def _family(backbone: Backbone) -> Family:
    name = backbone.source.get("family", "")
    if name not in FAMILIES:
        raise InputError(
            f"{backbone.path}: PEFT exchange needs a published family; this backbone's is {name or 'none'!r}"
        )
    return FAMILIES[name]


__all__ = ["Exchange", "export_peft", "import_peft"]
