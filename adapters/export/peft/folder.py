"""PEFT's folder besides the tensors of the method: the config, the head, the names of the labels."""

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
from backbone.trees import Params

HEAD = "topgraft_head.safetensors"
OWN = "topgraft.json"  # what PEFT has no field for: names of the labels, settings of the head
CLASSIFIER = PREFIX + "classifier."


def read_config(source: Path, codecs: Mapping[str, Codec]) -> tuple[Fields, Codec]:
    """The config and the codec of its type; raises InputError for what no codec has."""
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
    """The head from what the method left over; raises InputError if anything else is left."""
    spec = Classification()
    if any(key.startswith(CLASSIFIER) for key in left):
        if not family.task_pooling:
            raise InputError(f"{source / WEIGHTS}: the classifier of transformers' {family.tag} is no single layer")
        spec = Classification(pooling=family.task_pooling)
    if not any(key.startswith(CLASSIFIER) for key in left) and (source / HEAD).is_file():
        spec = decode(Classification, own_fields(source).get("head", {}), f"{source / OWN}: head")
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


def own_fields(source: Path) -> dict[str, Any]:
    """What a folder that was exported here says besides PEFT's config; empty for others."""
    if not (source / OWN).is_file():
        return {}
    try:
        fields = json.loads((source / OWN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{source / OWN}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{source / OWN}: expected a JSON object, got {type(fields).__name__}")
    return fields


def label_names(given: str | None, own: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The names given, or the folder's own, or LABEL_0, LABEL_1, ...; raises InputError for another number."""
    if given is None:
        names = list(own.get("labels", [])) or [f"LABEL_{i}" for i in range(count)]
    elif os.path.isfile(given):  # noqa: PTH113 - Path.is_file raises for a list of names longer than a file name
        names = _lines_of(Path(given))
    else:
        names = [name.strip() for name in given.split(",")]
    if len(names) != count:
        raise InputError(f"--labels: {len(names)} names for a head with {count} outputs")
    return tuple(names)


def _lines_of(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels: {file}: cannot be read as UTF-8: {error}") from error
