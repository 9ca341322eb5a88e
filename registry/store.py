"""Artefacts in a folder, named by their content: each is complete and verified, or absent.

    STORE/store.json        id of the store, so that an empty mount point is not mistaken for it
    STORE/<content hash>/   a graft folder, never changed after it was renamed into place, but for further signatures
    STORE/<32 hex digits>.rows.npz  hashes of the rows that artefacts were made from (`trainers.retrain.rows`)
    STORE/registries/       the registries that use the store, and what each names (`registry.users`)

An artefact here is not yet a version; the registry's database says which ones are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from adapters.artefact.manifest import MANIFEST, Manifest, tensor_files
from adapters.artefact.read import read_graft
from adapters.artefact.scripts import FAULTS
from backbone.errors import InputError
from backbone.files import create_durable, new_folder
from backbone.records import digest
from backbone.signing.statement import FOLDER as SIGNATURES
from backbone.signing.statement import SUFFIX
from backbone.texts import load_json
from registry.entries import Unavailable

log = logging.getLogger(__name__)

LABEL = "store.json"
USERS = "registries"  # folder of the registries that use the store
VOLUME = ("lost+found",)  # what a new file system brings with it
SCHEMA = 1


def rows_name(prints: Mapping[str, str]) -> str:
    """Returns the name of the file with the hashes of rows, from the fingerprint of each split."""
    return f"{digest(dict(prints)).removeprefix('sha256:')[:32]}.rows.npz"


def new_label() -> bytes:
    """Returns the content of the label of a new store."""
    return json.dumps({"schema": SCHEMA, "store_id": uuid.uuid4().hex}).encode()


class Store:
    """A folder of artefacts, made on first use."""

    collects: ClassVar[bool] = True  # what is no longer used can be removed

    def __init__(self, path: str | Path):
        self.root = Path(path)

    @property
    def place(self) -> str:
        """Returns the folder or address of the store, as a user names it."""
        return str(self.root)

    def add(self, graft: str | Path) -> tuple[str, str]:
        """Copies a graft folder into the store; returns its content_id and its path relative to the store.

        Every byte of the copy is verified before it gets its name. An artefact that is present already is verified and
        left as it is. Raises InputError for a damaged graft, and Unavailable if it cannot be written; then nothing is.
        """
        graft = Path(graft)
        manifest = read_graft(graft)[0]
        content_id = manifest.content_id
        target = self.path(content_id)
        self.identity(create=True)
        if target.exists():
            self._verified(content_id)
            self._add_signatures(graft, target)
            return content_id, target.name
        try:
            with self.reached(), new_folder(target) as folder:
                for name in (*tensor_files(manifest), MANIFEST):
                    shutil.copyfile(graft / name, folder / name)
                self._add_signatures(graft, folder)
                if read_graft(folder)[0].content_id != content_id:
                    raise InputError(f"{graft}: changed while it was published")
        except (Unavailable, InputError):
            if not target.exists():
                raise
            self._verified(content_id)  # another process published the same content first
        return content_id, target.name

    def _add_signatures(self, graft: Path, folder: Path) -> None:
        """Copies the signatures of a graft that an artefact does not have; they are no part of its content.

        They cover the manifest, with its costs and times, so none is copied to an artefact with another manifest.
        """
        with self.reached():
            files = sorted((graft / SIGNATURES).glob(f"*{SUFFIX}"))
            if files and (graft / MANIFEST).read_bytes() != (folder / MANIFEST).read_bytes():
                log.warning(
                    "%s: published before with another %s, which no signature of this graft covers", graft, MANIFEST
                )
                return
            for file in files:
                (folder / SIGNATURES).mkdir(exist_ok=True)
                create_durable(folder / SIGNATURES / file.name, file.read_bytes())

    def path(self, content_id: str) -> Path:
        """Returns the folder of an artefact, present or not."""
        kind, _, name = content_id.partition(":")
        if kind != "sha256" or len(name) != 64 or set(name) - set("0123456789abcdef"):
            raise InputError(f"store: {content_id!r} is no content_id; expected sha256:<64 hex digits>")
        return self.root / name

    def verify(self, content_id: str) -> Manifest:
        """Reads every byte of an artefact and returns its manifest.

        Raises InputError if it is missing, altered, or another graft than its name says, or if a script of its own
        variants is missing or has changed.
        """
        self.identity()
        return self._verified(content_id)

    def _verified(self, content_id: str) -> Manifest:
        """Reads every byte of an artefact in its folder; raises as `verify` does."""
        folder = self.path(content_id)
        try:
            with self.reached():
                manifest = read_graft(folder)[0]
        except FAULTS:  # a script is missing or has changed; the artefact is whole
            raise
        except InputError as error:
            raise InputError(f"{error}; restore {folder}, or remove it and publish the graft again") from error
        if manifest.content_id != content_id:
            raise InputError(f"{folder}: holds another graft, {manifest.content_id}; restore it from a copy")
        return manifest

    def identity(self, *, create: bool = False) -> str:
        """Returns the id that this store got when it was made; raises Unavailable if there is no store."""
        label = self.root / LABEL
        with self.reached():
            if create and not label.exists():
                self._label(label)
            content = label.read_bytes()
        try:
            values = load_json(content)
            schema, store_id = values["schema"], str(values["store_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{label}: damaged ({error!r}); restore it from a copy of the store") from error
        if schema != SCHEMA:
            raise InputError(f"{label}: schema {schema}: this version of topgraft reads {SCHEMA}")
        return store_id

    def _label(self, label: Path) -> None:
        """Makes an empty folder a store; if several processes try, one of them decides the id."""
        self.root.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in self.root.iterdir()]
        strange = [name for name in names if not name.startswith(".") and name not in (LABEL, *VOLUME)]
        if strange and not label.exists():
            raise InputError(f"store: {self.root} is a folder of something else ({min(strange)}); choose an empty one")
        create_durable(label, new_label())

    def share(self, name: str) -> None:
        """Gives a file that was written beside the artefacts to every user of the store."""

    def bring(self, name: str) -> None:
        """Makes a file beside the artefacts readable here, if the store has it."""

    def labelled(self) -> bool:
        """Returns True if the folder is a store; raises Unavailable if it cannot be looked at."""
        with self.reached():
            return (self.root / LABEL).exists()

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Turns errors of the file system in the block (no folder, no space, no answer) into Unavailable."""
        try:
            yield
        except OSError as error:
            raise Unavailable(f"store: {self.root}: {error}") from error
