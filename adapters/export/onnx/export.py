"""A graft as a folder that onnxruntime runs: `topgraft export GRAFT --format onnx`.

    model.onnx       the whole of the answer: backbone, adapter, head, out-of-scope score
    tokenizer.json   text to ids; cuts and pads by itself (for images `preprocessing.json`)
    manifest.json    labels, outputs, settings, the sha256 of the other files
    README.md        how to run it, in ten lines

Where onnxruntime can be imported, the file is run and compared with the graft before the folder gets its name. Shape
letters: B rows, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from adapters.artefact.write import relative_tolerance
from adapters.export.answering import outputs_of
from adapters.export.onnx.readme import readme
from adapters.export.onnx.tracing import IDS, MASK, PIXELS, SEGMENTS, inputs_of, onnx_model
from adapters.forward import answers_of, logits_of
from adapters.graft import SCORE, Graft, dropped, load_graft, require_every_token
from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.files import new_folder, sha256_file
from backbone.images import FILE as IMAGE_FILE
from backbone.images import ImagePreprocessing, patches
from backbone.precisions.precision import FLOAT32
from backbone.preprocessing import TextPreprocessing
from backbone.records import encode
from backbone.storage import load_backbone

SCHEMA = 1
MODEL, TOKENIZER, MANIFEST, PAGE = "model.onnx", "tokenizer.json", "manifest.json", "README.md"
CHECKED = ((1, 5), (4, 128))  # rows and largest length of the batches on which the file is compared


@dataclass(frozen=True)
class OnnxManifest:
    """The content of `manifest.json`."""

    schema: int
    content_id: str  # content_id of the graft
    name: str
    precision: str  # precision of the backbone
    kind: str  # kind of the head
    labels: tuple[str, ...]  # names in the order of the logits
    threshold: float | None  # probability from which a label is given; None: the most probable one is
    abstain: bool  # no label is given where out_of_scope exceeds 1
    max_tokens: int  # longest input
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int  # version of ONNX's operators
    largest_difference: float | None  # largest one of an output from the graft's, relative above 1; None: not measured
    difference_to_float32: float | None  # largest one of a logit from the graft's on the float32 trunk
    measured: str  # what measured the differences, or the reason why nothing did
    files: dict[str, str]  # sha256 of the other files


@dataclass(frozen=True)
class ExportedOnnx:
    """The result of an export; `--json` prints it."""

    path: str  # folder written
    content_id: str  # content_id of the graft
    precision: str  # precision of the backbone
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size_mb: float  # size on disk, 10^6 bytes
    largest_difference: float | None  # largest one of an output from the graft's, relative above 1; None: not measured
    difference_to_float32: float | None  # largest one of a logit from the graft's on the float32 trunk
    measured: str  # what measured the differences, or the reason why nothing did
    dropped: tuple[str, ...] = ()  # parts of the graft that the file lacks


@dataclass(frozen=True)
class Difference:
    """How far the file's outputs are from the graft's."""

    largest: float | None
    to_float32: float | None
    by: str


def export_onnx(
    graft: str | Path, out: str | Path, *, backbone: str | Path | None = None, precision: str = ""
) -> ExportedOnnx:
    """Writes a graft as an ONNX file with its tokenizer into the new folder `out`.

    `precision` is as in `load_graft`. Raises InputError for what has no conversion to ONNX, and where the file's
    outputs differ from the graft's.
    """
    opset = _require_onnx()
    ready_to_compute()
    loaded = load_graft(graft, backbone, precision=precision)
    manifest = loaded.manifest
    assert manifest is not None
    require_every_token(loaded, str(graft))
    lost = dropped([loaded], "an ONNX file", kept=(SCORE,))
    outputs, inputs = tuple(outputs_of(loaded)), tuple(item.name for item in inputs_of(loaded))
    with new_folder(Path(out)) as folder:
        about = {"topgraft.content_id": manifest.content_id, "topgraft.name": manifest.name}
        content = onnx_model(loaded, about).SerializeToString()
        (folder / MODEL).write_bytes(content)
        name, text = _preprocessing(loaded)
        (folder / name).write_text(text, encoding="utf-8")
        difference = _compared(loaded, content)
        (folder / PAGE).write_text(readme(loaded, manifest.name, outputs, _sentence(difference)), encoding="utf-8")
        written = OnnxManifest(
            schema=SCHEMA,
            content_id=manifest.content_id,
            name=manifest.name,
            precision=loaded.backbone.precision,
            kind=loaded.model.head.kind,
            labels=loaded.model.labels,
            threshold=loaded.model.head.threshold_of_labels,
            abstain=loaded.scope is not None and loaded.scope.abstain,
            max_tokens=loaded.max_tokens,
            inputs=inputs,
            outputs=outputs,
            opset=opset,
            largest_difference=difference.largest,
            difference_to_float32=difference.to_float32,
            measured=difference.by,
            files={file.name: sha256_file(file) for file in sorted(folder.iterdir())},
        )
        spelled = json.dumps(encode(written), indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(spelled + "\n", encoding="utf-8")
        size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportedOnnx(
        path=str(out),
        content_id=manifest.content_id,
        precision=loaded.backbone.precision,
        inputs=inputs,
        outputs=outputs,
        size_mb=size / 1e6,
        largest_difference=difference.largest,
        difference_to_float32=difference.to_float32,
        measured=difference.by,
        dropped=lost,
    )


def _require_onnx() -> int:
    """Returns the version of the operators; raises InputError where `onnx` is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise InputError("--format onnx: needs the package onnx: pip install 'topgraft[onnx]'") from error
    from adapters.export.onnx.graph import OPSET

    return OPSET


def _preprocessing(graft: Graft) -> tuple[str, str]:
    """Returns name and content of the file that says how inputs are made; the tokenizer cuts and pads by itself."""
    preprocessing = graft.backbone.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        return IMAGE_FILE, preprocessing.file_text
    assert isinstance(preprocessing, TextPreprocessing)
    tokenizer = Tokenizer.from_str(preprocessing.tokenizer_json)
    tokenizer.enable_truncation(graft.max_tokens, direction="left" if preprocessing.cuts_left else "right")
    token = tokenizer.id_to_token(preprocessing.fill) or "[PAD]"
    tokenizer.enable_padding(pad_id=preprocessing.fill, pad_token=token)
    return TOKENIZER, tokenizer.to_str(pretty=False)


def _compared(graft: Graft, content: bytes) -> Difference:
    """Runs the file beside the graft on made-up rows; raises InputError where an output differs by too much."""
    try:
        import onnxruntime
    except ImportError:
        return Difference(None, None, "onnxruntime is not installed here, so the file was not run")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    allowed = relative_tolerance(graft.backbone.precision)
    plain, worst, away = _on_float32(graft), 0.0, 0.0
    for feed, inputs in _batches(graft):
        outputs = dict(zip(outputs_of(graft), session.run(outputs_of(graft), feed), strict=True))
        results = _expected(graft, inputs)
        for name, expected in results.items():
            scale = max(1.0, float(np.abs(expected).max()))
            worst = max(worst, float(np.abs(outputs[name] - expected).max()) / scale)
            if not worst <= allowed:
                raise InputError(f"{MODEL}: its {name} differ from the graft's by {worst:.3g}, more than {allowed:.3g}")
        expected = (results if plain is graft else _expected(plain, inputs))["logits"]
        away = max(away, float(np.abs(outputs["logits"] - expected).max()))
    return Difference(worst, away, f"onnxruntime {onnxruntime.__version__}")


def _on_float32(graft: Graft) -> Graft:
    """Returns the graft on the float32 weights of its backbone."""
    if graft.backbone.precision == FLOAT32:
        return graft
    return replace(graft, backbone=load_backbone(graft.backbone.path, precision=FLOAT32))


def _batches(graft: Graft) -> Iterator[tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]:
    """Yields made-up batches: what the file is fed, and what the network takes."""
    draw, spec, sides = np.random.default_rng(0), graft.backbone.spec, graft.model.sides
    names = {item.name for item in inputs_of(graft)}
    for examples, longest in CHECKED:
        if spec.image is not None:
            size = spec.image.size
            pixels = draw.integers(0, 256, (examples, size, size, spec.image.channels), np.uint8)
            rows = np.stack([patches(picture, spec.image) for picture in pixels])
            yield {PIXELS: pixels}, {IDS: rows, MASK: np.ones(rows.shape[:2], bool)}
            continue
        count, length = examples * sides, min(longest, graft.max_tokens)
        ids = draw.integers(0, spec.vocabulary, (count, length), np.int64)
        mask = np.arange(length) < np.linspace(length, 2, count).round()[:, None]
        feed, inputs = {IDS: ids, MASK: mask.astype(np.int64)}, {IDS: ids.astype(np.int32), MASK: mask}
        if SEGMENTS in names:
            feed[SEGMENTS] = draw.integers(0, spec.segments, ids.shape, np.int64)
            inputs[IDS] = np.stack([ids, feed[SEGMENTS]], axis=-1).astype(np.int32)
        yield feed, inputs


def _expected(graft: Graft, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the graft's outputs by name, block by block as `predict` computes them."""
    params, head = jax.device_put(graft.params), graft.model.head
    weights, scores = graft.backbone.params, {}
    if graft.scope is None:
        logits = logits_of(graft.model, weights, params, inputs)
    else:
        both = answers_of(graft.model, weights, params, inputs, graft.scope.boundary)
        logits, features = both[:, : len(graft.model.labels)], np.asarray(both[:, len(graft.model.labels) :])
        scores = {"out_of_scope": graft.scope.scores(features)}
    return {"logits": np.asarray(logits), head.output: np.asarray(head.exported(logits)), **scores}


def _sentence(difference: Difference) -> str:
    """Returns how the file was compared, for the page."""
    if difference.largest is None:
        return f"Not compared with the graft: {difference.by}."
    return (
        f"Compared with the graft by {difference.by}: the largest difference of an output is {difference.largest:.2g}, "
        f"that of a logit from the float32 backbone's {difference.to_float32:.2g}."
    )
