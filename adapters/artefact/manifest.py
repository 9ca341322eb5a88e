"""What `manifest.json` of a graft holds, as data. Imports no jax.

The identity of a graft is its tensors, the fields of `identity` (methods, head, labels, the two backbone ids and the
longest input) and, where there are some, its out-of-scope score and early exits. Metrics, costs, times and versions are
told beside it, and do not change `content_id`: the same seed and data give the same id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.specs import Head, MethodSpec
from backbone.errors import InputError
from backbone.records import canonical_json, decode, digest, encode

SCHEMA = 1
MANIFEST, TENSORS, CANARY = "manifest.json", "graft.safetensors", "canary.safetensors"
SCOPE = "scope.safetensors"  # only where a graft has an out-of-scope score (`adapters.artefact.scope`)
EXITS_FILE = "exits.safetensors"  # only where a graft has early exits (`adapters.artefact.exits`)
OPTIONAL = (SCOPE, EXITS_FILE)


@dataclass(frozen=True)
class Training:
    """How a graft came to be; for people, gates and lineage."""

    config: dict[str, Any]  # the resolved config
    seeds: dict[str, int]  # every seed by purpose
    data: dict[str, str]  # fingerprint of each split
    metrics: dict[str, dict[str, float]]  # by split, by metric
    costs: dict[str, Any]  # measurements, each with its quality
    versions: dict[str, str]  # of libraries


@dataclass(frozen=True)
class Manifest:
    """Everything about a graft but its arrays."""

    schema: int  # version of this layout
    content_id: str  # of tensors and identity
    name: str  # of the task
    weights_id: str  # of the backbone it was grafted on
    preprocessing_id: str  # of that backbone's tokenizer
    methods: tuple[MethodSpec, ...]
    head: Head
    labels: tuple[str, ...]  # names, in the order of the logits
    max_tokens: int  # longer inputs are cut
    tensors: dict[str, str]  # dtype and shape by path
    variants: tuple[str, ...]  # dtypes of the backbone it was validated on
    tolerances: dict[str, float]  # of the canary's logits, by "dtype/platform"
    files: dict[str, str]  # sha256 by file name
    training: Training
    manifest_id: str = ""  # sha256 of all of the above

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: this version reads {SCHEMA}, the graft has {self.schema}")


def tensor_files(manifest: Manifest) -> tuple[str, ...]:
    """The files that make up the graft, beside the manifest."""
    return (TENSORS, CANARY, *(name for name in OPTIONAL if name in manifest.files))


def identity(manifest: Manifest) -> str:
    """The text that, with the tensors, decides `content_id`."""
    fields = ("schema", "weights_id", "preprocessing_id", "methods", "head", "labels", "max_tokens")
    parts: dict[str, Any] = {name: manifest.files[name] for name in OPTIONAL if name in manifest.files}
    # what a run validated beside its own precision decides how the graft may be served
    asked = manifest.training.config.get("validate") or ()
    if validated := sorted(set(manifest.variants) & set(asked)):
        parts["variants"] = validated
    return canonical_json({name: encode(getattr(manifest, name)) for name in fields} | parts)


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its own hash filled in."""
    return replace(manifest, manifest_id=digest(encode(replace(manifest, manifest_id=""))))


def dumps(manifest: Manifest) -> bytes:
    """The one spelling of a manifest: a changed byte anywhere is seen."""
    return (json.dumps(encode(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """Reads and verifies `manifest.json` of the graft folder `path`; raises InputError."""
    file = path / MANIFEST
    try:
        content = file.read_bytes()
    except OSError as error:
        if not path.exists():
            raise InputError(f"{path}: no such graft") from None
        raise InputError(f"{path}: not a graft (no readable {MANIFEST}): {error}") from error
    try:
        values = json.loads(content.decode())
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}; restore the graft or train it again") from error
    if isinstance(values, dict) and values.get("schema") != SCHEMA and isinstance(values.get("schema"), int):
        raise InputError(f"{file}: schema {values['schema']}: this version of topgraft reads schema {SCHEMA}")
    try:
        manifest = decode(Manifest, values)
    except InputError as error:
        raise InputError(f"{file}: {error}; the manifest was altered or is damaged") from error
    if sealed(manifest) != manifest or dumps(manifest) != content:
        raise InputError(f"{file}: does not match its own hash: altered after it was written")
    return manifest
