"""A graft as one self-contained folder that runs without Topgraft: `topgraft export GRAFT --format jax`.

    bucket16.jax ...   a `jax.export` function of (weights, ids int32 [B,T], mask bool [B,T]) for each length bucket,
                       lowered for CPU, CUDA and TPU
    weights.npz        weights that the functions take: backbone, graft and, where it has one, out-of-scope score
    tokenizer.json     text to ids
    manifest.json      labels, settings, sha256 of every file, and of the manifest itself
    run.py             `adapters/export/standalone.py`: loads, verifies, answers

Each function is read back, compiled here and compared with the graft before the folder gets its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import adapters.export.standalone
from adapters.artefact.manifest import Manifest
from adapters.artefact.write import tolerance_of
from adapters.export.answering import answer, by_path, outputs_of, weights_of
from adapters.graft import SCORE, Graft, dropped, load_graft
from adapters.heads.head import kinds_for
from adapters.machine import ready_to_compute
from adapters.target import target_of
from backbone.buckets import bucket_of, pad
from backbone.errors import InputError
from backbone.files import new_folder, sha256_file
from backbone.images import ImagePreprocessing

SCHEMA = 1
PLATFORMS = ("cpu", "cuda", "tpu")
BUCKETS = (16, 32, 64)  # lengths exported by default, beside the bucket of the graft's longest input
WEIGHTS, TOKENIZER, RUNNER, MANIFEST = "weights.npz", "tokenizer.json", "run.py", "manifest.json"


@dataclass(frozen=True)
class Exported:
    """The result of an export; `--json` prints it."""

    path: str  # folder written
    manifest_id: str  # sha256 of its manifest, which names the whole folder
    content_id: str  # content_id of the graft
    precision: str  # precision of the backbone
    buckets: tuple[int, ...]  # lengths in tokens
    batch: int  # rows of a call
    platforms: tuple[str, ...]  # platforms the functions are lowered for
    size_mb: float  # size on disk, 10^6 bytes
    memory_mb: float  # weights, inputs, outputs and temporaries of the longest bucket, 10^6 bytes
    memory_quality: str  # source of memory_mb
    max_memory_mb: float | None  # limit in the graft's target; None: no limit
    within_target: bool | None  # memory_mb keeps the limit; None: no limit
    largest_difference: float  # largest difference of an output from the graft's
    dropped: tuple[str, ...] = ()  # parts of the graft that the folder lacks


def export_jax(
    graft: str | Path,
    out: str | Path,
    *,
    backbone: str | Path | None = None,
    buckets: Sequence[int] = (),
    batch: int,
    precision: str = "",
) -> Exported:
    """Writes the graft as a folder for `run.py`; raises InputError if its head or backbone cannot be exported.

    Texts longer than the longest bucket are cut there. `batch` is the number of rows of every call. `precision` is as
    in `load_graft`.
    """
    if batch < 1:
        raise InputError(f"--batch: must be at least 1, got {batch}")
    ready_to_compute()
    loaded = load_graft(graft, backbone, precision=precision)
    manifest = loaded.manifest
    assert manifest is not None
    _require_exportable(loaded, str(graft))
    lost = dropped([loaded], "an exported folder", kept=(SCORE,))
    chosen = _buckets(loaded, buckets)
    limit = min(loaded.max_tokens, chosen[-1])
    named, function = by_path(weights_of(loaded)), jax.jit(_function(loaded))
    weights = {path: _as_saved(leaf) for path, leaf in named.items()}
    shapes = {path: _shape(leaf.shape, leaf.dtype) for path, leaf in weights.items()}
    with new_folder(Path(out)) as folder:
        functions = {str(bucket): f"bucket{bucket}.jax" for bucket in chosen}
        for bucket, name in zip(chosen, functions.values(), strict=True):
            ids, mask = (_shape((batch, bucket), kind) for kind in (jnp.int32, jnp.bool_))
            (folder / name).write_bytes(export.export(function, platforms=PLATFORMS)(shapes, ids, mask).serialize())
        np.savez(folder / WEIGHTS, **weights)  # type: ignore[arg-type]
        (folder / TOKENIZER).write_text(loaded.backbone.preprocessing.tokenizer_json, encoding="utf-8")  # type: ignore[union-attr]
        shutil.copyfile(adapters.export.standalone.__file__, folder / RUNNER)
        written: dict[str, Any] = {
            "schema": SCHEMA,
            "manifest_id": "",
            "content_id": manifest.content_id,
            "name": manifest.name,
            "precision": loaded.backbone.precision,
            "kind": loaded.model.head.kind,
            "labels": list(loaded.model.labels),
            "threshold": loaded.model.head.threshold_of_labels,
            "abstain": loaded.scope is not None and loaded.scope.abstain,
            "max_tokens": limit,
            "fill": loaded.backbone.preprocessing.fill,
            "batch": batch,
            "outputs": outputs_of(loaded),
            "functions": functions,
            "platforms": list(PLATFORMS),
            "jax": jax.__version__,
            "files": {file.name: sha256_file(file) for file in sorted(folder.iterdir())},
        }
        spelled = json.dumps(written, sort_keys=True, ensure_ascii=False).encode()
        written["manifest_id"] = hashlib.sha256(spelled).hexdigest()
        (folder / MANIFEST).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        difference, memory = _check(loaded, manifest, folder, functions, batch, limit)
        size = sum(file.stat().st_size for file in folder.iterdir())
    limit_mb = target_of(manifest).max_memory_mb or None
    return Exported(
        path=str(out),
        manifest_id=written["manifest_id"],
        content_id=manifest.content_id,
        precision=loaded.backbone.precision,
        buckets=chosen,
        batch=batch,
        platforms=PLATFORMS,
        size_mb=size / 1e6,
        memory_mb=memory / 1e6,
        memory_quality=f"counted by the compiler for {jax.default_backend()}; the process itself not included",
        max_memory_mb=limit_mb,
        within_target=None if limit_mb is None else memory / 1e6 <= limit_mb,
        largest_difference=difference,
        dropped=lost,
    )


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _require_exportable(graft: Graft, where: str) -> None:
    head = graft.model.head
    if isinstance(graft.backbone.preprocessing, ImagePreprocessing):
        raise InputError(f"{where}: a backbone for images: its runner would need an image library; only texts export")
    if "export" not in head.supports or head.pair != "none":
        raise InputError(
            f"{where}: its head is {head.kind} with pair={head.pair}; one of {kinds_for('export', ', ')} on single "
            "texts can be exported"
        )


def _buckets(graft: Graft, requested: Sequence[int]) -> tuple[int, ...]:
    """Returns the buckets to export, ascending; raises InputError for a length that is no bucket of the backbone."""
    lengths = graft.backbone.lengths
    longest = bucket_of(graft.max_tokens, lengths)
    chosen = requested or [*(bucket for bucket in BUCKETS if bucket in lengths and bucket < longest), longest]
    for bucket in chosen:
        if bucket not in lengths:
            raise InputError(f"--buckets: {bucket} is none of this backbone's: {', '.join(map(str, lengths))}")
    return tuple(sorted(set(chosen)))


def _as_saved(leaf: jax.Array) -> np.ndarray:
    """Returns an array as NumPy's files can hold it: bfloat16 as uint16."""
    array = np.asarray(leaf)
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _function(graft: Graft) -> Callable[..., dict[str, jax.Array]]:
    """Returns the function (weights by path, ids, mask) -> outputs by name."""
    tree = jax.tree.map(lambda leaf: _shape(leaf.shape, leaf.dtype), weights_of(graft))
    structure, kinds = jax.tree.structure(tree), {path: leaf.dtype for path, leaf in by_path(tree).items()}

    def answers(saved: dict[str, jax.Array], ids: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        leaves = [_as_computed(saved[path], kind) for path, kind in kinds.items()]
        return answer(graft, jax.tree.unflatten(structure, leaves), {"ids": ids, "mask": mask})

    return answers


def _as_computed(leaf: jax.Array, kind: Any) -> jax.Array:
    """Returns a saved array in its own dtype."""
    return jax.lax.bitcast_convert_type(leaf, kind) if kind == jnp.bfloat16 else leaf


def _check(
    graft: Graft, manifest: Manifest, folder: Path, functions: dict[str, str], batch: int, limit: int
) -> tuple[float, int]:
    """Returns the largest difference from the graft, and bytes in memory; raises InputError if a function differs."""
    with np.load(io.BytesIO((folder / WEIGHTS).read_bytes())) as file:
        weights = jax.device_put(dict(file))
    draw, worst, memory = np.random.default_rng(0), 0.0, 0
    fill = graft.backbone.preprocessing.fill
    for bucket, name in ((int(bucket), name) for bucket, name in functions.items()):
        lengths = np.linspace(min(3, bucket), min(bucket, limit), batch).round().astype(int)
        vocabulary = graft.backbone.spec.vocabulary
        rows = [draw.integers(0, vocabulary, length, dtype=np.int32) for length in lengths]
        inputs = (weights, *pad(rows, bucket, fill))
        program = jax.jit(export.deserialize(bytearray((folder / name).read_bytes())).call).lower(*inputs).compile()
        logits = np.asarray(program(*inputs)["logits"])
        worst = max(worst, float(np.abs(logits - graft.logits_of_rows(rows)).max()))
        allowed = tolerance_of(manifest, graft.backbone.precision, name)
        if not worst <= allowed:
            raise InputError(f"{name}: its logits differ from the graft's by {worst:.3g}, more than {allowed:.3g}")
        counted = program.memory_analysis()
        parts = ("argument", "output", "temp", "generated_code")
        memory = max(memory, sum(getattr(counted, f"{part}_size_in_bytes") for part in parts))
    return worst, memory
