"""The graft artefact: a folder of `graft.safetensors`, `manifest.json` and `canary.safetensors`.

A graft with an out-of-scope score has `scope.safetensors` too, one with early exits `exits.safetensors`.

It holds tensors and JSON only. A graft is written beside its target and renamed into place. Reading verifies
every byte (`adapters.artefact.read`), both backbone ids, and the shapes against the backbone's architecture. It also
runs the canary: a few synthetic inputs whose logits were recorded when the graft was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save as save_tensors

from adapters.artefact.exits import Exits
from adapters.artefact.manifest import (
    CANARY,
    EXITS_FILE,
    MANIFEST,
    OPTIONAL,
    SCHEMA,
    SCOPE,
    TENSORS,
    Manifest,
    Training,
    dumps,
    identity,
    sealed,
)
from adapters.artefact.scope import Scope
from adapters.artefact.scripts import changed, own_code
from adapters.forward import forward_program
from adapters.model import GraftModel
from backbone.errors import InputError, shown
from backbone.files import new_folder, sha256_file
from backbone.images import ImagePreprocessing
from backbone.network.encoder import Network
from backbone.precisions.precision import Precision, precision_named, precision_of
from backbone.storage import Backbone, Preprocessing
from backbone.trees import Params, content_hash, describe, flatten, map_leaves, require_same_structure
from backbone.variants.code_files import code_files
from backbone.variants.registered import Registered, own_file, own_files
from backbone.variants.registered import variants as variants_of

CANARY_ROWS, CANARY_BUCKET = 8, 16
MAX_CANARY_ROWS = 256  # rows that a canary of somebody else may have
FILES = (TENSORS, CANARY, *OPTIONAL)


class OtherBackbone(InputError):
    """A graft that belongs to another backbone than the one that is there."""


def save_graft(
    target: str | Path,
    model: GraftModel,
    params: Mapping[str, Any],
    backbone: Backbone,
    *,
    name: str,
    max_tokens: int,
    training: Training,
    scope: Scope | None = None,
    exits: Exits | None = None,
    variants: Sequence[str] = (),
    replace_existing: bool = False,
) -> Manifest:
    """Writes a graft folder in one step and returns its manifest.

    `params` is the tree of `GraftModel.init`, float32. `variants` are the precisions in which it was validated,
    beside the backbone's. Raises InputError if `target` exists (unless `replace_existing`), if a tensor does not
    fit the model, or if any value is not finite.
    """
    target = Path(target)
    host = map_leaves(np.asarray, params)
    require_same_structure(host, model.abstract(), f"{target}: graft")
    broken = [path for path, leaf in flatten(host).items() if not np.isfinite(leaf).all()]
    if broken:
        raise InputError(f"{target}: not saved, values that are not finite in {', '.join(broken[:5])}")
    inputs = canary_inputs(backbone.preprocessing, max_tokens)
    if model.head.pair == "cross" and backbone.spec.segments > 1:
        inputs["ids"] = with_segments(inputs["ids"])
    expected = canary_logits(model, backbone, params, inputs)
    if not np.isfinite(expected).all():
        raise InputError(f"{target}: not saved, the graft's logits are not finite")
    scale = max(1.0, float(np.abs(expected).max()))
    with new_folder(target, replace=replace_existing) as folder:
        (folder / TENSORS).write_bytes(save_tensors(flatten(host)))
        (folder / CANARY).write_bytes(save_tensors({**inputs, "logits": expected}))
        if scope is not None:
            (folder / SCOPE).write_bytes(save_tensors(scope.tensors()))
        if exits is not None:
            (folder / EXITS_FILE).write_bytes(save_tensors(exits.tensors()))
        manifest = Manifest(
            schema=SCHEMA,
            content_id="",
            name=name,
            weights_id=backbone.weights_id,
            preprocessing_id=backbone.preprocessing_id,
            methods=model.methods,
            head=model.head,
            labels=model.labels,
            max_tokens=max_tokens,
            tensors={path: describe(leaf) for path, leaf in flatten(host).items()},
            variants=tuple(sorted({backbone.precision, *variants})),
            tolerances={key: value * scale for key, value in tolerances(backbone.precision).items()},
            files={name: sha256_file(folder / name) for name in FILES if (folder / name).exists()},
            training=replace(training, variants=own_names((*model.methods, model.head))),
            suffix=model.suffix,
            drops=model.drops,
        )
        manifest = sealed(replace(manifest, content_id=content_hash(host, identity(manifest))))
        (folder / MANIFEST).write_bytes(dumps(manifest))
    return manifest


def own_names(values: Iterable[object]) -> dict[str, str]:
    """Returns, by tag, the names of the files behind each variant that does not come with Topgraft.

    The file that defines it stands first; behind it those of its bases, and what they import of the user's own.
    """
    files = {v.tag: code_files(own_files(type(v))) for v in values if isinstance(v, Registered) and own_file(type(v))}
    return {tag: " with ".join([Path(first).name, *_rest(others)]) for tag, (first, *others) in files.items()}


def _rest(files: Iterable[str]) -> list[str]:
    names = sorted({Path(file).name for file in files})
    return [", ".join(names)] if names else []


def model_of(manifest: Manifest, network: Network) -> GraftModel:
    """Returns the model of a manifest; raises InputError where its parts do not fit `network`."""
    return GraftModel(
        network, manifest.methods, manifest.head, manifest.labels, suffix=manifest.suffix, drops=manifest.drops
    )


def model_on(manifest: Manifest, backbone: Backbone, where: str) -> GraftModel:
    """Returns the graft's model on `backbone`; raises InputError unless it was trained or validated there."""
    trained = precision_of(backbone.base_id, manifest.weights_id)
    for field, fits in (
        ("weights_id", trained is not None),
        ("preprocessing_id", backbone.preprocessing_id == manifest.preprocessing_id),
    ):
        here, expected = getattr(backbone, field), getattr(manifest, field)
        if not fits:
            raise OtherBackbone(
                f"{where}: grafted on another backbone: its {field} is {expected[:19]}..., that of {backbone.path} is "
                f"{here[:19]}...; load it with the backbone it was trained on"
            )
    if backbone.precision not in (trained, *manifest.variants):
        raise InputError(
            f"{where}: grafted on {backbone.path} in {trained}, and not validated in {backbone.precision}: "
            f"load it with precision={trained}, or train it again on {backbone.precision}"
        )
    with own_code(where, manifest.training.variants):
        return model_of(manifest, backbone.network)


def verify_on(
    manifest: Manifest,
    params: Params,
    canary: Mapping[str, np.ndarray],
    model: GraftModel,
    backbone: Backbone,
    where: str,
) -> None:
    """Checks every tensor against the architecture and the canary's logits; raises InputError."""
    scripts = manifest.training.variants
    _require_canary(canary, backbone, f"{where}: {CANARY}")
    with own_code(where, scripts):
        require_same_structure(params, model.abstract(), where)
        logits = canary_logits(model, backbone, params, canary)
    allowed = tolerance_of(manifest, backbone.precision, where)
    if canary["logits"].shape != logits.shape:
        shapes = f"{list(canary['logits'].shape)}, and the graft gives {list(logits.shape)}"
        raise InputError(f"{where}: {CANARY}: logits are {shapes}: another graft's, or altered")
    worst = float(np.abs(logits - canary["logits"]).max())
    if not worst <= allowed:
        problem = (
            f"{where}: the canary's logits differ by {worst:.3g}, more than {allowed:.3g} allowed for "
            f"{backbone.precision}/{_platform()}: this machine or these libraries do not reproduce the graft"
        )
        raise changed(problem, scripts, certain=False) if scripts else InputError(problem)


def _require_canary(canary: Mapping[str, np.ndarray], backbone: Backbone, where: str) -> None:
    """Raises InputError unless the backbone can run the canary: ids, mask and logits, of the right kind and range."""
    if canary.keys() != {"ids", "mask", "logits"}:
        raise InputError(f"{where}: holds {', '.join(map(shown, sorted(canary)))}, expected ids, mask and logits")
    ids, mask, spec = canary["ids"], canary["mask"], backbone.spec
    shape, longest = mask.shape, max(backbone.lengths[-1], CANARY_BUCKET)
    inside = mask.dtype == bool and mask.ndim == 2 and 0 < shape[0] <= MAX_CANARY_ROWS and 0 < shape[1] <= longest
    if spec.image:
        fits = ids.dtype == np.uint8 and ids.shape == (shape[0], spec.image.tokens, spec.image.patch_width)
    else:
        fits = ids.dtype == np.int32 and ids.shape in (shape, (*shape, 2))
    if inside and fits and not spec.image:
        parts = (ids,) if ids.shape == shape else (ids[..., 0], ids[..., 1])
        limits = (spec.vocabulary, spec.segments)
        fits = all(part.min() >= 0 and part.max() < limit for part, limit in zip(parts, limits, strict=False))
    if not (inside and fits):
        raise InputError(
            f"{where}: ids {ids.dtype}{list(ids.shape)} and mask {mask.dtype}{list(shape)} are no inputs here"
        )


def tolerances(precision: str) -> dict[str, float]:
    """Returns the largest relative difference of a canary's logit, by "precision/platform".

    The canary of a graft is computed in its own `precision`; another one adds its own difference.
    """
    limits = precision_named(precision).tolerance
    return {
        f"{tag}/{platform}": limit if tag == precision else max(limit, limits.get(platform, limit))
        for tag, cls in variants_of(Precision).items()
        for platform, limit in cls.tolerance.items()
    }


def relative_tolerance(precision: str) -> float:
    """Returns the largest relative difference of a logit of a graft in its `precision`, on this platform."""
    return tolerances(precision)[f"{precision}/{_platform()}"]


def tolerance_of(manifest: Manifest, precision: str, where: str) -> float:
    """Returns the largest difference of a logit allowed on this platform; raises InputError where none is stated."""
    key = f"{precision}/{_platform()}"
    if key not in manifest.tolerances:
        raise InputError(f"{where}: no canary tolerance for {key}; known: {', '.join(manifest.tolerances)}")
    return manifest.tolerances[key]


def _platform() -> str:
    platform = jax.default_backend()
    return "gpu" if platform in ("cuda", "rocm") else platform


def canary_inputs(preprocessing: Preprocessing, max_tokens: int) -> dict[str, np.ndarray]:
    """Returns synthetic ids int32 [8,16] and mask bool [8,16] of lengths from 3 on: never training text.

    For images `ids` are patches uint8 [8,T,P] of noise.
    """
    limit = min(CANARY_BUCKET, max_tokens)
    draw = np.random.default_rng(0)
    if isinstance(preprocessing, ImagePreprocessing):
        shape = (CANARY_ROWS, preprocessing.image.tokens, preprocessing.image.patch_width)
        return {"ids": draw.integers(0, 256, shape, np.uint8), "mask": np.ones(shape[:2], bool)}
    ids = draw.integers(0, preprocessing.vocabulary, (CANARY_ROWS, CANARY_BUCKET), dtype=np.int32)
    lengths = np.linspace(3, limit, CANARY_ROWS).round().astype(int)
    mask = np.arange(CANARY_BUCKET)[None, :] < lengths[:, None]
    return {"ids": np.where(mask, ids, preprocessing.fill).astype(np.int32), "mask": mask}


def with_segments(ids: np.ndarray) -> np.ndarray:
    """Returns ids int32 [B,T,2]: the first three tokens in segment 0, the others in segment 1."""
    second = np.broadcast_to(np.arange(ids.shape[1]) >= 3, ids.shape)
    return np.stack([ids, second], axis=-1).astype(np.int32)


def canary_logits(
    model: GraftModel, backbone: Backbone, params: Mapping[str, Any], canary: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Returns logits float32 [8,C] of the canary's inputs; [4,C] for pairs encoded apart, [8,16,C] for tagging."""
    # a program does not depend on the labels' names: grafts of one shape share it, and loading them compiles nothing
    alike = replace(model, labels=tuple(map(str, range(len(model.labels)))))
    program = forward_program(alike)
    return np.asarray(program(backbone.params, params, canary["ids"], canary["mask"]))
