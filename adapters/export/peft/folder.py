"""A PEFT folder as a foreign input: its config, its weights, what Topgraft wrote beside them, names of labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.export.peft.codec import CONFIG, Codec, Fields, Folder
from adapters.export.peft.layers import WEIGHTS, Tensors
from adapters.export.peft.names import Chosen
from adapters.labels.spelling import spelling
from backbone.errors import InputError, nearest
from backbone.exchange.importing import read_safetensors
from backbone.families import Family
from backbone.texts import parse_json, read_names, read_text

HEAD = "topgraft_head.safetensors"
EXTRA_FILE = "topgraft.json"  # file with what PEFT has no field for: names of the labels, settings of the head
PICKLED = "adapter_model.bin"

# fields that every type has: what wraps the layers, and what says nothing about the computation
COMMON = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
)
REMEDIES = {  # what helps against a field that a graft has no place for
    "init_lora_weights": "it changes the base weights; save a plain LoRA with PEFT's save_pretrained(..., "
    "path_initial_model_for_weight_conversion=FOLDER_OF_THE_INITIAL_ADAPTER)",
    "bias": "only 'none' and, for LoRA, 'lora_only' are",
    "trainable_token_indices": "a graft has no embeddings of its own; train without them",
}


def read_config(path: Path, codecs: Mapping[str, Codec]) -> tuple[Fields, Codec]:
    """Returns the config and the codec of its type; raises InputError for a type or field that no codec supports."""
    file = path / CONFIG
    config = _json(file, f"{path}: not a PEFT folder: {CONFIG}")
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in codecs:
        raise InputError(
            f"{file}: peft_type: {kind!r} is not supported; one of {', '.join(sorted(codecs))}; PEFT's save_as_lora "
            "converts some of the others"
        )
    codec = codecs[kind]
    for field, allowed in codec.unused.items():
        if field in config and config[field] not in allowed:
            _refuse(file, field, config[field])
    known = COMMON | codec.used | codec.unused.keys()
    for field, value in config.items():
        if field not in known and value not in (None, False, 0, "", [], {}):
            raise InputError(
                f"{file}: {field}: {value!r}: a field of another version of PEFT, or of another type, that may change "
                f"what is computed ({nearest(field, known)}); remove it if it does not"
            )
    return config, codec


def folder_of(path: Path, config: Fields, codec: Codec, family: Family) -> Folder:
    """Returns the folder with the layers that its config chooses; raises InputError for a choice that PEFT lacks."""
    return Folder(path, config, Chosen.of(config, str(path / CONFIG), codec.default_targets.get(family.tag, ())))


def _refuse(file: Path, field: str, value: Any) -> None:
    remedy = f"; {REMEDIES[field]}" if field in REMEDIES else "; train without it, or merge it in PEFT"
    raise InputError(f"{file}: {field}: {value!r} is not supported{remedy}")


def read_weights(path: Path) -> Tensors:
    """Returns the tensors of a folder, float32; raises InputError naming what is missing, cut off or a pointer."""
    file = path / WEIGHTS
    if not file.is_file():
        if (path / PICKLED).is_file():
            raise InputError(
                f"{path}: {PICKLED} holds pickled code, which is never run; convert it: "
                f"PeftModel.from_pretrained(model, {str(path)!r}).save_pretrained(NEW_FOLDER, safe_serialization=True) "
                f"writes {WEIGHTS}"
            )
        raise InputError(f"{file}: missing; PEFT's save_pretrained writes it")
    return read_safetensors(file)


def extra_fields(path: Path) -> Fields:
    """Returns the fields that Topgraft wrote beside PEFT's config; empty for folders that others wrote."""
    return _json(path / EXTRA_FILE, f"{path}: {EXTRA_FILE}") if (path / EXTRA_FILE).is_file() else {}


def base_fields(folder: Folder) -> Fields:
    """Returns the config.json of the model that PEFT wrapped, where it lies on this machine, else no fields."""
    base = folder.config.get("base_model_name_or_path")
    files = [folder.path / "config.json", *([Path(base) / "config.json"] if isinstance(base, str) and base else [])]
    return next((_json(file, str(file)) for file in files if os.path.isfile(file)), {})  # noqa: PTH113


def label_names(requested: str | None, known: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Returns the requested names, or the known ones, or LABEL_0, LABEL_1, ...

    Raises InputError for a wrong number of names, or for one that stands twice.
    """
    if requested is None:
        names = list(known) or [f"LABEL_{i}" for i in range(count)]
    elif os.path.isfile(requested):  # noqa: PTH113 - Path.is_file raises for a list of names longer than a file name
        names = read_names(Path(requested))
    else:
        names = [name.strip() for name in requested.split(",")]
    if len(names) != count:
        raise InputError(f"--labels: {len(names)} names for a head with {count} outputs")
    if not all(names):
        raise InputError(f"--labels: a name is empty: {', '.join(map(repr, names))}")
    require_distinct(names, "--labels")
    return tuple(names)


def require_distinct(names: Sequence[str], where: str) -> None:
    """Raises InputError for two names that are one label, as `a` and `a ` are in rows."""
    first: dict[str, str] = {}
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: {name!r} stands more than once; names must be distinct (--labels)")
        if (other := first.setdefault(spelling(name), name)) != name:
            raise InputError(f"{where}: {other!r} and {name!r} are one label; names must be distinct (--labels)")


def _json(file: Path, missing: str) -> Fields:
    """Returns the object in a JSON file; raises InputError for another content, or a field that stands twice."""
    if not file.is_file():
        raise InputError(f"{missing}: no such file")
    content = parse_json(read_text(file), str(file))
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content
