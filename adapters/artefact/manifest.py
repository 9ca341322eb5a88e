"""The contents of a graft's `manifest.json`, as data. Imports no jax.

The identity of a graft is its tensors and the fields of `identity`: methods, head, labels, the two backbone ids and the
longest input. An out-of-scope score and early exits belong to it where a graft has them. Metrics, costs, times and
versions do not change `content_id`: the same seed and data give the same id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from adapters.artefact.scripts import changed, missing
from adapters.methods.method import Method
from adapters.specs import Head
from adapters.suffix import SuffixBlock
from backbone.errors import InputError
from backbone.network.dropping import Drop
from backbone.records import canonical_json, decode, digest, encode, newer
from backbone.texts import load_json
from backbone.variants.registered import UnknownVariant, VariantsError
from metering.cost import CostRecord

SCHEMA = 1
MANIFEST, TENSORS, CANARY = "manifest.json", "graft.safetensors", "canary.safetensors"
SCOPE = "scope.safetensors"  # file that exists only where a graft has an out-of-scope score (`adapters.artefact.scope`)
EXITS_FILE = "exits.safetensors"  # file that exists only where a graft has early exits (`adapters.artefact.exits`)
OPTIONAL = (SCOPE, EXITS_FILE)

# phases that read, or may find all features in the cache: without a count they computed nothing
IDLE = ("load", "data", "subset", "probe", "climb", "out_of_scope", "exits", "evaluate")


@dataclass(frozen=True)
class Training:
    """The making of a graft, for reports, gates and lineage."""

    config: dict[str, Any]  # the resolved config
    seeds: dict[str, int]  # every seed by purpose
    data: dict[str, str]  # fingerprint of each split
    metrics: dict[str, dict[str, float]]  # value by split, by metric
    costs: dict[str, Any]  # measurements, each with its quality
    versions: dict[str, str]  # versions of libraries
    variants: dict[str, str] = field(default_factory=dict)  # names of the user's files behind a variant, by tag
    rows_read: int = field(default=0, metadata=newer())  # rows whose states a cache held before the training


@dataclass(frozen=True)
class Manifest:
    """Everything about a graft but its arrays."""

    schema: int  # version of this layout
    content_id: str  # sha256 of tensors and identity
    name: str  # name of the task
    weights_id: str  # weights of the backbone it was grafted on, in their precision
    preprocessing_id: str  # preprocessing of that backbone (tokenizer or image transform)
    methods: tuple[Method, ...]  # methods of the adapter, in the order they act
    head: Head  # settings of the head
    labels: tuple[str, ...]  # names of the labels, in the order of the logits
    max_tokens: int  # length at which longer inputs are cut
    tensors: dict[str, str]  # dtype and shape by path
    variants: tuple[str, ...]  # precisions of the backbone that it was validated in
    tolerances: dict[str, float]  # largest differences of the canary's logits, by "precision/platform"
    files: dict[str, str]  # sha256 by file name
    training: Training  # the making of the graft
    manifest_id: str = ""  # sha256 of all the rest
    suffix: tuple[SuffixBlock, ...] = field(default=(), metadata=newer())  # blocks whose kernels belong to the graft
    drops: tuple[Drop, ...] = field(default=(), metadata=newer())  # boundaries at which tokens are dropped

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: this version reads {SCHEMA}, the graft has {self.schema}")


def tensor_files(manifest: Manifest) -> tuple[str, ...]:
    """Returns the names of the files that make up the graft, beside the manifest."""
    return (TENSORS, CANARY, *(name for name in OPTIONAL if name in manifest.files))


def identity(manifest: Manifest) -> str:
    """Returns the text that, with the tensors, decides `content_id`."""
    fields = ("schema", "weights_id", "preprocessing_id", "methods", "head", "labels", "max_tokens")
    parts: dict[str, Any] = {name: manifest.files[name] for name in OPTIONAL if name in manifest.files}
    if manifest.suffix:
        parts["suffix"] = encode(manifest.suffix)
    if manifest.drops:
        parts["drops"] = encode(manifest.drops)
    # precisions that a run validated beside its own decide how the graft may be served
    former = manifest.training.config.get("validate")  # former configs named those beside float32
    if validated := sorted(set(manifest.variants) & set(former)) if former is not None else _beside_one(manifest):
        parts["variants"] = validated
    return canonical_json({name: encode(getattr(manifest, name)) for name in fields} | parts)


def _beside_one(manifest: Manifest) -> list[str]:
    """Returns all precisions of a graft that was validated in several; none for one."""
    return sorted(manifest.variants) if len(manifest.variants) > 1 else []


def sealed(manifest: Manifest) -> Manifest:
    """Returns the manifest with its own hash filled in."""
    return replace(manifest, manifest_id=digest(_values(replace(manifest, manifest_id=""))))


def dumps(manifest: Manifest) -> bytes:
    """Returns the one spelling of a manifest, so that a changed byte anywhere is noticed."""
    return _spelled(_values(manifest))


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _values(manifest: Manifest) -> dict[str, Any]:
    """Returns the JSON values of a manifest, without `training.variants` while that is empty.

    Manifests of older versions lack the field, and their hash must stay the same.
    """
    values: dict[str, Any] = encode(manifest)
    if not manifest.training.variants:
        del values["training"]["variants"]
    return values


def read_manifest(path: Path) -> Manifest:
    """Reads and verifies `manifest.json` of the graft folder `path`; raises InputError.

    It is one of `adapters.artefact.scripts.FAULTS` where the script of an own variant is missing, or has changed.
    """
    file = path / MANIFEST
    try:
        content = file.read_bytes()
    except OSError as error:
        if not path.exists():
            raise InputError(f"{path}: no such graft") from None
        if (path / "graft" / MANIFEST).is_file():
            raise InputError(f"{path}: a work folder; its graft is {path / 'graft'}") from None
        raise InputError(f"{path}: not a graft (no readable {MANIFEST}): {error}") from error
    try:
        values = load_json(content.decode())
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}; restore the graft or train it again") from error
    if isinstance(values, dict) and values.get("schema") != SCHEMA and isinstance(values.get("schema"), int):
        raise InputError(f"{file}: schema {values['schema']}: this version of topgraft reads schema {SCHEMA}")
    try:
        manifest = decode(Manifest, values)
    except UnknownVariant as error:
        raise missing(error, str(file), _scripts(values)) from error
    except VariantsError:  # a script fails
        raise
    except Exception as error:  # whatever the code of an own variant raises
        if not (isinstance(error, InputError) or _scripts(values)):
            raise
        raise _misread(f"{file}: {error}", values, content, "; the manifest was altered or is damaged") from error
    if sealed(manifest) != manifest or dumps(manifest) != content:
        raise _misread(f"{file}: does not match its own hash", values, content, ": altered after it was written")
    return manifest


def stored_cost(values: Any) -> CostRecord | None:
    """Returns a stored cost; None for what is none, as in the records of other programs."""
    try:
        return decode(CostRecord, values) if isinstance(values, Mapping) else None
    except InputError:
        return None


def stored_phases(training: Training) -> dict[str, CostRecord]:
    """Returns the costs of a training's phases by name."""
    return {name: cost for name, values in training.costs.items() if (cost := stored_cost(values)) is not None}


def uncounted(phases: Mapping[str, CostRecord], figure: Literal["flops", "bytes_moved"] = "flops") -> tuple[str, ...]:
    """Returns the phases whose operations, or bytes, nobody counted though they always compute."""
    return tuple(name for name, cost in phases.items() if name not in IDLE and getattr(cost, figure) is None)


def _misread(problem: str, values: Any, content: bytes, altered: str) -> InputError:
    """Returns the error for a manifest that cannot be read back: its bytes were altered, or code has changed since."""
    try:
        whole = values["manifest_id"] == digest({**values, "manifest_id": ""}) and _spelled(values) == content
        version = values["training"]["versions"].get("topgraft", "unknown")
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        return InputError(f"{problem}{altered}")
    if scripts := _scripts(values):
        return changed(problem, scripts)
    return InputError(f"{problem}; the manifest is whole, but another version of Topgraft wrote it: {version}")


def _scripts(values: Any) -> dict[str, str]:
    """Returns `training.variants` of a manifest's values, which may have any shape."""
    training = values.get("training") if isinstance(values, dict) else None
    scripts = training.get("variants") if isinstance(training, dict) else None
    return {str(tag): str(name) for tag, name in scripts.items()} if isinstance(scripts, dict) else {}
