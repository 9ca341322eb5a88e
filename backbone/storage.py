"""A backbone on disk: `backbone.json`, `tokenizer.json` (for images `preprocessing.json`) and `weights/` (Orbax).

A derived trunk has `backbone.json` and `updates.safetensors` alone: what it adds to the trunk that `base` names.

`backbone.json` names the architecture, both ids and the source of the weights. Loading computes both ids again from
the bytes that it read and compares them. A changed byte anywhere is an error, never a slightly different model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from backbone.buckets import lengths_up_to
from backbone.errors import InputError
from backbone.files import BACKBONE_FILE, new_folder
from backbone.home import find_backbone
from backbone.images import FILE as IMAGE_FILE
from backbone.images import ImagePreprocessing
from backbone.meshes.layout import ONE, Layout, layout_of
from backbone.meshes.mesh import Mesh
from backbone.network.encoder import Network
from backbone.network.updates import Update, load_updates, save_updates, updated, updates_id
from backbone.orbax import load_tree, save_tree
from backbone.precisions.precision import FLOAT32, precision_named
from backbone.precisions.record import recorded
from backbone.preprocessing import TextPreprocessing
from backbone.records import canonical_json, decode, encode, newer
from backbone.spec import EncoderSpec
from backbone.texts import load_json
from backbone.tokenizer_trial import require_usable
from backbone.trees import Params, content_hash, map_leaves, require_same_structure

SCHEMA = 1
TEXT_FILE = "tokenizer.json"
BASE_PATH = "base_path"  # entry of a derived trunk's source: the folder of its base when it was made

Preprocessing: TypeAlias = TextPreprocessing | ImagePreprocessing


@dataclass(frozen=True)
class BackboneRecord:
    """The content of `backbone.json`."""

    schema: int  # version of this layout
    spec: EncoderSpec  # architecture
    weights_id: str  # identity of architecture and weights
    preprocessing_id: str  # identity of the tokenizer and the longest input, or of how images are resized
    max_tokens: int  # longest input, special tokens included
    source: dict[str, str]  # source of the weights; `family` names their published layout
    base: str = field(default="", metadata=newer())  # weights_id of the trunk that updates are added to; "" = none

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema: this version reads {SCHEMA}, the folder has {self.schema}; import it again")


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: static network, weights as a plain dict, preprocessing, ids, precision."""

    path: Path  # folder it was loaded from
    network: Network
    params: Params  # weights in the precision, where `layout` places them
    preprocessing: Preprocessing
    base_id: str  # identity of architecture and float32 weights, which the folder has
    source: dict[str, str]  # source of the weights; `family` names their published layout
    precision: str = FLOAT32  # precision in which frozen kernels are stored and multiplied
    layout: Layout = ONE  # devices of the weights, and of what runs on them

    @property
    def weights_id(self) -> str:
        """Returns the identity of the trunk: its weights, in its precision."""
        return precision_named(self.precision).weights_id(self.base_id)

    @property
    def spec(self) -> EncoderSpec:
        return self.network.spec

    @property
    def preprocessing_id(self) -> str:
        return self.preprocessing.preprocessing_id

    @property
    def lengths(self) -> tuple[int, ...]:
        longest = self.preprocessing.max_tokens
        return (longest,) if self.spec.image else lengths_up_to(longest)

    def made_up_ids(self, rows: int, tokens: int) -> np.ndarray:
        """Returns ids int32 [B,T], or patches uint8 [B,T,P], of the right shape; for timing and pricing."""
        if self.spec.image:
            return np.ones((rows, tokens, self.spec.image.patch_width), np.uint8)
        return np.ones((rows, tokens), np.int32)


def weights_id(spec: EncoderSpec, params: Mapping[str, Any]) -> str:
    """Returns `sha256:<hex>` of the architecture and every float32 weight."""
    return content_hash(params, canonical_json(spec.identity()))


def save_backbone(
    target: Path,
    spec: EncoderSpec,
    params: Params,
    preprocessing: Preprocessing,
    source: dict[str, str],
    *,
    replace: bool = False,
    written: Path | None = None,
) -> BackboneRecord:
    """Writes a backbone folder in one step. Raises InputError if `target` exists and `replace` is false.

    `written` is a folder beside it to which `save_tree` has written the weights already; it is moved.
    """
    params = map_leaves(lambda leaf: np.asarray(leaf, np.float32), params)
    require_same_structure(params, Network(spec).abstract(), "backbone weights")
    if isinstance(preprocessing, ImagePreprocessing):
        if preprocessing.image != spec.image:
            raise InputError(f"{IMAGE_FILE}: makes {preprocessing.image}, but the weights take {spec.image}")
    else:
        require_usable(preprocessing, spec.vocabulary, TEXT_FILE)
    record = BackboneRecord(
        schema=SCHEMA,
        spec=spec,
        weights_id=weights_id(spec, params),
        preprocessing_id=preprocessing.preprocessing_id,
        max_tokens=preprocessing.max_tokens,
        source=source,
    )
    with new_folder(target, replace=replace) as folder:
        if written is None:
            save_tree(folder / "weights", params)
        else:
            written.rename(folder / "weights")
        if isinstance(preprocessing, ImagePreprocessing):
            (folder / IMAGE_FILE).write_text(preprocessing.file_text, encoding="utf-8")
        else:
            (folder / TEXT_FILE).write_text(preprocessing.tokenizer_json, encoding="utf-8")
        (folder / BACKBONE_FILE).write_text(json.dumps(encode(record), indent=1), encoding="utf-8")
    return record


def save_derived(target: Path, base: Backbone, updates: Sequence[Update], source: dict[str, str]) -> BackboneRecord:
    """Writes a trunk as updates of `base`, in float32, as the new folder `target`. Raises InputError if one exists.

    The folder of the base has to stay, or lie in the home, since it holds the weights and the preprocessing.
    """
    updated(base.params, updates)  # raises where one does not fit
    record = BackboneRecord(
        schema=SCHEMA,
        spec=base.spec,
        weights_id=updates_id(base.base_id, updates),
        preprocessing_id=base.preprocessing_id,
        max_tokens=base.preprocessing.max_tokens,
        source=source | {BASE_PATH: str(base.path.resolve())},
        base=base.base_id,
    )
    with new_folder(target) as folder:
        save_updates(folder, updates)
        (folder / BACKBONE_FILE).write_text(json.dumps(encode(record), indent=1), encoding="utf-8")
    return record


def read_record(path: Path) -> BackboneRecord:
    """Reads the description of a backbone folder, without its weights. Raises InputError for another folder."""
    file = path / BACKBONE_FILE
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not a backbone folder (no {BACKBONE_FILE}); make one with "
            f"`topgraft import-backbone SOURCE --out {path}`"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: unreadable: {error}; import the backbone again") from error
    return decode(BackboneRecord, content, str(file))


def load_backbone(path: str | Path, *, precision: str = "") -> Backbone:
    """Loads and verifies a backbone folder.

    `precision` is a tag of `backbone.precisions`; "" takes the one that is recorded for these weights, float32 where
    none is. Raises InputError if anything differs from what was written.
    """
    path = Path(path)
    record = read_record(path)
    chosen = precision_named(precision or recorded(record.weights_id))
    network = Network(record.spec)
    if record.base:
        params, preprocessing, identity = _read_derived(path, record)
    else:
        preprocessing = _read_preprocessing(path, record)
        params = load_tree(path / "weights", network.abstract(), f"{path}: weights")
        identity = weights_id(record.spec, params)
    for name, computed, expected in (
        ("weights_id", identity, record.weights_id),
        ("preprocessing_id", preprocessing.preprocessing_id, record.preprocessing_id),
    ):
        if computed != expected:
            raise InputError(
                f"{path}: {name} is {computed[:19]}..., {BACKBONE_FILE} says {expected[:19]}...: the folder was "
                f"altered after it was written; import the backbone again"
            )
    device = map_leaves(jax.device_put, chosen.prepare(params))
    return Backbone(path, network, device, preprocessing, record.weights_id, record.source, chosen.precision)


def _read_derived(path: Path, record: BackboneRecord) -> tuple[Params, Preprocessing, str]:
    """Returns weights, preprocessing and identity of a derived trunk. Raises InputError where its base is gone."""
    try:
        hint = Path(record.source.get(BASE_PATH, ""))
        folder = find_backbone(record.base, [str(hint), str(path.parent / hint.name)])  # or moved with it
        base = load_backbone(folder, precision=FLOAT32)
    except InputError as error:
        raise InputError(f"{path}: its base trunk cannot be read: put it back, or into the home: {error}") from error
    updates = load_updates(path)
    if base.spec != record.spec:
        raise InputError(f"{path}: has another architecture than its base trunk {folder}; make it again")
    return updated(base.params, updates), base.preprocessing, updates_id(base.base_id, updates)


_KEPT: dict[Path, tuple[object, Backbone]] = {}  # the backbone that this process loaded last, and its files then


def kept_backbone(path: str | Path, *, precision: str = "") -> Backbone:
    """Returns the backbone that this process loaded last, if no file of it changed since; else `load_backbone`'s.

    A retraining reads its backbone several times, and one process may retrain many tasks.
    """
    path = Path(path)
    record = read_record(path)
    key = (record, precision or recorded(record.weights_id), [_stamp(file) for file in sorted(path.rglob("*"))])
    if path not in _KEPT or _KEPT[path][0] != key:
        _KEPT.clear()
        _KEPT[path] = key, load_backbone(path, precision=precision)
    return _KEPT[path][1]


def _stamp(file: Path) -> tuple[Path, int, int, int]:
    """Returns what changes when a file is written again."""
    stat = file.stat()
    return file, stat.st_ino, stat.st_size, stat.st_mtime_ns


def in_precision(backbone: Backbone, precision: str) -> Backbone:
    """Returns a float32 backbone in another precision, without reading it again."""
    if backbone.precision != FLOAT32:
        raise ValueError(f"{backbone.path}: only float32 weights can be prepared, these are in {backbone.precision}")
    params = precision_named(precision).prepare(map_leaves(np.asarray, backbone.params))
    return replace(backbone, params=backbone.layout.params(params), precision=precision)


def on_mesh(backbone: Backbone, mesh: Mesh) -> Backbone:
    """Returns the backbone with its weights on the devices of a mesh; raises InputError where these cannot be."""
    layout = layout_of(mesh)
    if layout == backbone.layout:
        return backbone
    return replace(backbone, params=layout.params(backbone.params), layout=layout)


def _read_preprocessing(path: Path, record: BackboneRecord) -> Preprocessing:
    file = path / (IMAGE_FILE if record.spec.image else TEXT_FILE)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: unreadable: {error}; import the backbone again") from error
    if record.spec.image:
        return ImagePreprocessing.from_file_text(text, str(file))
    return TextPreprocessing.from_file_text(text, record.max_tokens, str(file))
