"""Reads a graft folder and verifies every byte of it. Imports no jax: registry and services begin here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from adapters.artefact.manifest import CANARY, TENSORS, Manifest, identity, read_manifest, tensor_files
from backbone.errors import InputError
from backbone.files import sha256_file
from backbone.trees import Params, content_hash, describe, unflatten


def read_graft(path: str | Path) -> tuple[Manifest, Params, dict[str, np.ndarray]]:
    """Manifest, parameters and canary of a graft folder, every byte verified; raises InputError.

    What needs the backbone (shapes against the architecture, ids, canary) is `adapters.artefact.write.verify_on`.
    """
    path = Path(path)
    manifest = read_manifest(path)
    loaded = {name: read_tensors(path, name, manifest) for name in tensor_files(manifest)}
    tensors = loaded[TENSORS]
    if {key: describe(leaf) for key, leaf in tensors.items()} != manifest.tensors:
        raise InputError(f"{path / TENSORS}: names or shapes differ from those of the manifest")
    params = unflatten(tensors)
    if content_hash(params, identity(manifest)) != manifest.content_id:
        raise InputError(f"{path}: content_id does not match the tensors and the identity in the manifest")
    return manifest, params, loaded[CANARY]


def read_tensors(path: Path, name: str, manifest: Manifest) -> dict[str, np.ndarray]:
    """The tensors of one file of a graft folder, if its bytes are those of the manifest; raises InputError."""
    file = path / name
    if not file.is_file():
        raise InputError(f"{file}: missing; the graft is incomplete")
    if sha256_file(file) != manifest.files.get(name):
        raise InputError(f"{file}: sha256 differs from the manifest's: truncated or altered after it was written")
    try:
        return dict(load_tensors(file.read_bytes()))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{file}: not a safetensors file: {error}") from error
