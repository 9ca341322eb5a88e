"""A PEFT folder without the tensors of the method: its config, its head, the names of its labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapters.export.peft.codec import CONFIG, PREFIX, WEIGHTS, Codec, Fields, Tensors
from adapters.specs import Classification
from backbone.errors import InputError
from backbone.families import Family
from backbone.importing import read_safetensors
from backbone.records import decode
from backbone.texts import read_names
from backbone.trees import Params

HEAD = "topgraft_head.safetensors"
EXTRA_FILE = "topgraft.json"  # file with what PEFT has no field for: names of the labels, settings of the head
CLASSIFIER = PREFIX + "classifier."


def read_config(source: Path, codecs: Mapping[str, Codec]) -> tuple[Fields, Codec]:
    """Returns the config and the codec of its type; raises InputError for a type or field that no codec supports."""
    file = source / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{source}: not a PEFT folder: {CONFIG}: {error}") from error
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in codecs:
        raise InputError(f"{file}: peft_type: {kind!r} is not supported; one of {', '.join(sorted(codecs))}")
    for field, allowed in codecs[kind].unused.items():
        if field in config and config[field] not in allowed:
            raise InputError(f"{file}: {field}: {config[field]!r} is not supported")
    return dict(config), codecs[kind]


def head_of_folder(source: Path, left: Tensors, title: str, family: Family) -> tuple[Classification, Params]:
    """Returns the head, made of the tensors that the method left over; raises InputError if others remain."""
    spec = Classification()
    if any(key.startswith(CLASSIFIER) for key in left):
        if not family.task_pooling:
            raise InputError(f"{source / WEIGHTS}: the classifier of transformers' {family.tag} is no single layer")
        spec = Classification(pooling=family.task_pooling)
    if not any(key.startswith(CLASSIFIER) for key in left) and (source / HEAD).is_file():
        spec = decode(Classification, extra_fields(source).get("head", {}), f"{source / EXTRA_FILE}: head")
        left |= {CLASSIFIER + name: value for name, value in read_safetensors(source / HEAD).items()}
    weight, bias = left.pop(CLASSIFIER + "weight", None), left.pop(CLASSIFIER + "bias", None)
    if weight is None or bias is None:
        raise InputError(
            f"{source / WEIGHTS}: holds no {CLASSIFIER}weight and bias: a graft needs its head; "
            f"save it in PEFT with task_type SEQ_CLS or modules_to_save=['classifier']"
        )
    if left:
        raise InputError(
            f"{source / WEIGHTS}: tensors that a {title} with a head does not have: {', '.join(sorted(left)[:5])}"
        )
    return spec, {"kernel": np.ascontiguousarray(weight.T), "bias": bias}


def extra_fields(source: Path) -> dict[str, Any]:
    """Returns the fields that Topgraft wrote beside PEFT's config; empty for folders that others wrote."""
    if not (source / EXTRA_FILE).is_file():
        return {}
    try:
        fields = json.loads((source / EXTRA_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{source / EXTRA_FILE}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{source / EXTRA_FILE}: expected a JSON object, got {type(fields).__name__}")
    return fields


def label_names(requested: str | None, fields: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Returns the requested names, or the folder's, or LABEL_0, LABEL_1, ...; raises InputError for a wrong number."""
    if requested is None:
        names = list(fields.get("labels", [])) or [f"LABEL_{i}" for i in range(count)]
    elif os.path.isfile(requested):  # noqa: PTH113 - Path.is_file raises for a list of names longer than a file name
        names = read_names(Path(requested))
    else:
        names = [name.strip() for name in requested.split(",")]
    if len(names) != count:
        raise InputError(f"--labels: {len(names)} names for a head with {count} outputs")
    return tuple(names)
