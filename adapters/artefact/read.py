"""Reading of a graft folder, with every byte verified. Imports no jax: the registry and services begin here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from adapters.artefact.manifest import CANARY, TENSORS, Manifest, identity, read_manifest, tensor_files
from backbone.errors import InputError
from backbone.files import sha256_file
from backbone.trees import Params, content_hash, describe, unflatten


def read_graft(path: str | Path) -> tuple[Manifest, Params, dict[str, np.ndarray]]:
    """Returns manifest, parameters and canary of a graft folder, every byte verified; raises InputError.

    The checks that need the backbone (ids, shapes against the architecture, canary) are in `adapters.artefact.write`:
    `model_on` and `verify_on`.
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
    """Returns the tensors of one file of a graft folder; raises InputError if its bytes are not the manifest's."""
    file = path / name
    if not file.is_file():
        raise InputError(f"{file}: missing; the graft is incomplete")
    if sha256_file(file) != manifest.files.get(name):
        raise InputError(f"{file}: sha256 differs from the manifest's: truncated or altered after it was written")
    try:
        return dict(load_tensors(file.read_bytes()))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{file}: not a safetensors file: {error}") from error


def misfits(tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[tuple[int, ...], str]]) -> list[str]:
    """Returns the names that are missing, unexpected, or of another shape or dtype than expected; sorted."""
    present = {name: (leaf.shape, leaf.dtype.name) for name, leaf in tensors.items()}
    return sorted(name for name in {*expected, *present} if expected.get(name) != present.get(name))
