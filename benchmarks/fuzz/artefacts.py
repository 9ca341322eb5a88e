"""Readers of artefacts: grafts, backbones, caches, and the folders of other programs. Forged ones are sealed again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adapters.artefact.manifest import CANARY, EXITS_FILE, MANIFEST, SCOPE, TENSORS, Manifest, identity
from adapters.artefact.write import canary_logits
from adapters.export.classifier import import_classifier
from adapters.export.peft import export_peft, import_peft
from adapters.graft import load_graft
from adapters.model import GraftModel
from backbone.cache import RowCache, Variant, collect_garbage, stat
from backbone.exchange.exporting import export_hf
from backbone.exchange.importing import import_backbone
from backbone.preprocessing import TextPreprocessing
from backbone.records import decode, digest, encode
from backbone.storage import BackboneRecord, load_backbone, weights_id
from backbone.trees import content_hash, describe, unflatten
from benchmarks.fuzz.mutations import edited_bytes, edited_json, edited_json_file, edited_safetensors, spelt
from benchmarks.fuzz.reader import Reader
from tests.adapters.test_classifier import fine_tune, trunk_tensors, write
from tests.grafts import make
from tests.serving.grafts import with_exits
from tests.tiny import make_tiny_backbone
from trainers.extras.out_of_scope import scope_of

TEXTS = ["ban bas dis", "", "xyz"]
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError)


def sha256(content: bytes) -> str:
    """Returns the hexadecimal sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


class Computing(Reader):
    """A reader that runs another network for most inputs. One input in `COMPILED` is compiled.

    The others run operation by operation: a program of their own would take longer to compile than all the rest.
    """

    COMPILED: ClassVar[int] = 100

    def way(self, number: int) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if number % self.COMPILED == 0 else jax.disable_jit()


class GraftFiles(Reader):
    """One file of a graft is mutated; the manifest has the right hashes of all of them."""

    part: ClassVar[str]

    def begin(self) -> None:
        self.backbone = load_backbone(make_tiny_backbone(self.folder / "trunk"))
        make(self.folder / "plain", self.backbone)
        one = load_graft(self.folder / "plain", self.backbone)
        exits = with_exits(one, seed=1).exits
        features = np.random.default_rng(0).normal(size=(60, one.model.pooled_width))
        features = features.astype(np.float32)
        scope = scope_of(features[:40], np.ones((40, 1)), features[40:], 3, 0.1, abstain=True)
        make(self.real / "graft", self.backbone, scope=scope, exits=exits)

    def forge(self, draw: random.Random) -> None:
        self.edit(draw, Path("graft") / self.part, edited_safetensors)
        if self.part == TENSORS and draw.randrange(2):
            self._right_canary()
        self.seal()

    def _right_canary(self) -> None:
        """Writes the outputs that the mutated tensors give, so that the canary says nothing against them."""
        folder = self.place / "graft"
        with contextlib.suppress(*UNREADABLE):
            manifest = decode(Manifest, json.loads((folder / MANIFEST).read_bytes()))
            canary = dict(load((folder / CANARY).read_bytes()))
            inputs = {name: leaf for name, leaf in canary.items() if name != "logits"}
            model = GraftModel(self.backbone.network, manifest.methods, manifest.head, manifest.labels)
            params = unflatten(dict(load((folder / TENSORS).read_bytes())))
            logits = canary_logits(model, self.backbone, params, inputs)
            self.put(Path("graft") / CANARY, save(canary | {"logits": np.asarray(logits)}))

    def seal(self, values: Any = None) -> None:
        """Makes hashes and ids of the manifest right, as far as its values have the shape for it."""
        folder = self.place / "graft"
        values = json.loads((folder / MANIFEST).read_bytes()) if values is None else values
        if isinstance(values, dict):
            self._seal(values, folder)
        with contextlib.suppress(*UNREADABLE):
            values["manifest_id"] = digest({**values, "manifest_id": ""})
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        self.put(Path("graft") / MANIFEST, text.encode("utf-8", "surrogatepass"))

    def _seal(self, values: dict[str, Any], folder: Path) -> None:
        with contextlib.suppress(*UNREADABLE, OSError):
            for name in list(values["files"]):
                values["files"][name] = sha256((folder / name).read_bytes())
        with contextlib.suppress(*UNREADABLE):
            tensors = dict(load((folder / TENSORS).read_bytes()))
            if self.part != MANIFEST:
                values["tensors"] = {path: describe(leaf) for path, leaf in tensors.items()}
            values["content_id"] = content_hash(unflatten(tensors), identity(decode(Manifest, values)))

    def read(self) -> None:
        graft = load_graft(self.place / "graft", self.backbone)
        assert graft.manifest is not None
        logits = graft.logits(TEXTS)
        assert logits.shape == (len(TEXTS), len(graft.model.labels))
        assert np.isfinite(logits).all(), "logits that are not finite"
        for answer in graft.predict(TEXTS):
            assert set(answer.probabilities) == set(graft.manifest.labels)
        encode(graft.manifest)


class GraftManifest(Computing, GraftFiles):
    """The manifest of a graft."""

    part = MANIFEST

    def forge(self, draw: random.Random) -> None:
        if draw.randrange(4) == 0:
            self.edit(draw, Path("graft") / MANIFEST, edited_json_file)
        else:
            self.seal(edited_json(draw, json.loads((self.real / "graft" / MANIFEST).read_bytes())))


class GraftTensors(GraftFiles):
    """The parameters of a graft."""

    part = TENSORS


class GraftCanary(GraftFiles):
    """The canary of a graft."""

    part = CANARY


class GraftExits(GraftFiles):
    """The early exits of a graft."""

    part = EXITS_FILE


class GraftScope(GraftFiles):
    """The out-of-scope score of a graft."""

    part = SCOPE


class BackboneFolder(Reader):
    """A backbone: its record, its tokenizer, the files of its weights."""

    def begin(self) -> None:
        self.loaded = load_backbone(make_tiny_backbone(self.real / "trunk"))

    def forge(self, draw: random.Random) -> None:
        kind = draw.randrange(4)
        if kind == 0:
            self.edit(draw, draw.choice(self.files("trunk/weights/**/*")), edited_bytes)
        elif kind == 1:
            content = self.edit(draw, "trunk/tokenizer.json", edited_json_file)
            self._seal(content)
        else:
            values = edited_json(draw, json.loads((self.real / "trunk/backbone.json").read_bytes()))
            with contextlib.suppress(*UNREADABLE):
                record = decode(BackboneRecord, values)
                values["weights_id"] = weights_id(record.spec, self.loaded.params)
            self.put("trunk/backbone.json", spelt(draw, values))

    def _seal(self, tokenizer: bytes) -> None:
        values = json.loads((self.real / "trunk/backbone.json").read_bytes())
        with contextlib.suppress(Exception):  # whatever a tokenizer library raises: it stays unsealed
            made = TextPreprocessing.from_file_text(tokenizer.decode(), values["max_tokens"], "x")
            values["preprocessing_id"] = made.preprocessing_id
        self.put("trunk/backbone.json", json.dumps(values).encode())

    def read(self) -> None:
        backbone = load_backbone(self.place / "trunk")
        for row in backbone.preprocessing.encode(TEXTS):
            assert 0 < len(row) <= backbone.preprocessing.max_tokens
            assert all(0 <= number < backbone.spec.vocabulary for number in np.asarray(row).ravel())


class CacheFolder(Reader):
    """A boundary cache: descriptions, indices and rows of its segments, with the right hashes."""

    VARIANT = Variant("sha256:w", 2, "none", "states", "", 8, "float32", "cpu")

    def begin(self) -> None:
        cache = RowCache(self.real, self.VARIANT)
        draw = np.random.default_rng(0)
        with cache.writing():
            for number in range(6):
                cache.add(bytes([number + 1]) * 16, 8, draw.normal(size=(3 + number, 8)).astype(np.float32))
        (index,) = self.real.rglob("*.index")
        self.stem = index.relative_to(self.real).with_suffix("")

    def forge(self, draw: random.Random) -> None:
        kind = draw.randrange(4)
        if kind == 3:
            self.edit(draw, draw.choice(self.files("*.json")), edited_json_file)
            return
        name = self.stem.with_suffix(".rows" if kind == 0 else ".index")
        self.edit(draw, name, edited_bytes)
        description = self.stem.with_suffix(".json")
        values = json.loads((self.real / description).read_bytes())
        for part in ("rows", "index"):
            content = (self.place / self.stem.with_suffix(f".{part}")).read_bytes()
            values |= {f"{part}_bytes": len(content), f"{part}_sha256": sha256(content)}
        self.put(description, json.dumps(values).encode())

    def read(self) -> None:
        stat(self.place, verify=True)
        cache = RowCache(self.place, self.VARIANT)
        keys = [bytes([number + 1]) * 16 for number in range(6)]
        cache.check(keys)
        for number, key in enumerate(keys):
            if cache.has(key, 8):
                states = cache.read(key)
                assert states.shape == (3 + number, 8), f"row {number} has the states {states.shape}"
        collect_garbage(self.place, 0)
        self._changed = None


class PeftFolder(Computing):
    """An adapter that PEFT may have written."""

    def begin(self) -> None:
        self.trunk = make_tiny_backbone(self.folder / "trunk")
        make(self.folder / "graft", load_backbone(self.trunk))
        export_peft(self.folder / "graft", self.real / "peft", backbone=self.trunk)

    def forge(self, draw: random.Random) -> None:
        name = draw.choice(self.files("peft/*"))
        edits = {".safetensors": edited_safetensors, ".json": edited_json_file}
        self.edit(draw, name, edits.get(name.suffix, edited_bytes))

    def read(self) -> None:
        out = self.place / f"graft{os.getpid()}"
        self._changed_whole()
        import_peft(self.place / "peft", self.trunk, out)
        graft = load_graft(out, self.trunk)
        assert np.isfinite(graft.logits(TEXTS)).all()

    def _changed_whole(self) -> None:
        """Lets the next input begin with an empty folder, since the reader writes there."""
        self._changed = None


class ClassifierFolder(PeftFolder):
    """A fine-tuned classifier that transformers may have written."""

    def begin(self) -> None:
        fine_tune(self.real / "peft", "Sequence")
        self.trunk = self.folder / "trunk"
        import_backbone(write(self.folder / "hf", trunk_tensors()), self.trunk)

    def read(self) -> None:
        out = self.place / "graft"
        self._changed_whole()
        import_classifier(self.place / "peft", self.trunk, out)
        assert np.isfinite(load_graft(out, self.trunk).logits(TEXTS)).all()


class PublishedBackbone(PeftFolder):
    """A backbone in the layout of Hugging Face."""

    def begin(self) -> None:
        export_hf(make_tiny_backbone(self.folder / "trunk"), self.real / "peft")

    def read(self) -> None:
        out = self.place / "trunk"
        self._changed_whole()
        import_backbone(self.place / "peft", out)
        backbone = load_backbone(out)
        rows = backbone.preprocessing.encode(TEXTS)
        assert all(0 <= number < backbone.spec.vocabulary for row in rows for number in np.asarray(row).ravel())


READERS: dict[str, type[Reader]] = {
    "graft manifest": GraftManifest,
    "graft tensors": GraftTensors,
    "graft canary": GraftCanary,
    "graft exits": GraftExits,
    "graft scope": GraftScope,
    "backbone": BackboneFolder,
    "cache": CacheFolder,
    "PEFT folder": PeftFolder,
    "classifier folder": ClassifierFolder,
    "published backbone": PublishedBackbone,
}
