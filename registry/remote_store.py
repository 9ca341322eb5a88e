"""A store on an object store (`s3://`, `gs://`), with a copy in the home of the artefacts that were used here.

Objects are written once and never change; an artefact is there when its manifest is, which is written last. Signatures
are no part of it and may follow. What a registry uses, and what may be removed, is not noted there: `gc` refuses such a
store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters.artefact.manifest import MANIFEST, Manifest
from adapters.artefact.read import read_graft
from adapters.artefact.scripts import FAULTS
from backbone import remote
from backbone.copies import used
from backbone.errors import InputError
from backbone.files import create_durable, new_folder, write_durable
from backbone.home import home
from backbone.records import digest
from backbone.signing.statement import FOLDER as SIGNATURES
from registry.entries import Unavailable
from registry.store import LABEL, Store, new_label

log = logging.getLogger(__name__)


class RemoteStore(Store):
    """A store below an address."""

    collects = False

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        super().__init__(home() / "stores" / digest(self.address).removeprefix("sha256:")[:32])
        self._refuses = False  # a second write of an object was refused

    @property
    def place(self) -> str:
        return self.address

    def add(self, graft: str | Path) -> tuple[str, str]:
        content_id, name = super().add(graft)
        folder, address = self.root / name, f"{self.address}/{name}"
        files = _files(folder)
        with self.reached():
            try:
                remote.upload(folder, [*(file for file in files if file != MANIFEST), MANIFEST], address)
            except remote.Differs as error:
                self._take(content_id, error)
                self._add_signatures(Path(graft), folder)
            for file in sorted((folder / SIGNATURES).glob("*")):
                remote.created(f"{address}/{SIGNATURES}/{file.name}", file.read_bytes())
        return content_id, name

    def _take(self, content_id: str, error: remote.Differs) -> None:
        """Takes the artefact that another machine published first in place of the copy here.

        Manifests of one content_id differ in costs and times. Raises InputError where the other upload was never
        completed, and for a damaged artefact.
        """
        address = f"{self.address}/{super().path(content_id).name}"
        entries = remote.listing(address)
        if MANIFEST not in [entry.name for entry in entries]:
            raise InputError(
                f"{error}; {address} has no {MANIFEST}, so its upload was not completed: if none goes on, delete its "
                f"objects ({', '.join(entry.name for entry in entries)}), and publish again"
            ) from error
        self._download(content_id, entries, replace=True)
        log.warning("%s: another machine has published the same content with another %s; taken", address, MANIFEST)

    def path(self, content_id: str) -> Path:
        """Returns the folder of an artefact in the home, downloaded and verified; without its files where it is not."""
        folder = super().path(content_id)
        if folder.exists():
            used(folder)
            self._fetch_signatures(folder)
            return folder
        with self.reached():
            entries = remote.listing(f"{self.address}/{folder.name}")
            if MANIFEST in [entry.name for entry in entries]:
                self._download(content_id, entries)
        return folder

    def _download(self, content_id: str, entries: Sequence[remote.Entry], *, replace: bool = False) -> None:
        """Downloads and verifies an artefact; raises InputError if it is damaged, and leaves the copy here."""
        folder = super().path(content_id)
        try:
            with new_folder(folder, replace=replace) as temporary:
                remote.download(self.address, entries, temporary)
                if (other := read_graft(temporary)[0].content_id) != content_id:
                    raise InputError(f"holds another graft, {other}")
        except FAULTS:  # a script is missing or has changed; the artefact is whole
            raise
        except InputError as error:
            if replace or not folder.exists():  # else another process was faster
                raise InputError(f"{self.address}/{folder.name}: {error}; restore it from a copy") from error

    def _fetch_signatures(self, folder: Path) -> None:
        """Fetches signatures that were added to an artefact after it was downloaded; warns where that fails."""
        address = f"{self.address}/{folder.name}/{SIGNATURES}"
        try:
            for entry in remote.listing(address):
                file = folder / SIGNATURES / entry.name
                if file.parent.name == SIGNATURES and not file.exists():
                    file.parent.mkdir(exist_ok=True)
                    if (content := remote.read(f"{address}/{entry.name}")) is not None:
                        create_durable(file, content)
        except (OSError, InputError) as error:
            log.warning("store: signatures that were added later are not known here: %s", error)

    def verify(self, content_id: str) -> Manifest:
        """Verifies the copy of an artefact here, and that every object of it lies at the address with its content.

        Sizes are compared, and checksums where the object store names them.
        """
        manifest = super().verify(content_id)
        folder = super().path(content_id)
        address = f"{self.address}/{folder.name}"
        with self.reached():
            entries = {entry.name: entry for entry in remote.listing(address)}
            for name in _files(folder):
                if name not in entries:
                    raise InputError(f"{address}/{name}: no object; publish the graft again from the copy, {folder}")
                if not remote.is_copy(address, entries[name], folder / name):
                    raise InputError(
                        f"{address}/{name}: has another content than the copy that was verified; delete the object, "
                        f"and publish the graft again from the copy, {folder}"
                    )
        return manifest

    def identity(self, *, create: bool = False) -> str:
        label = f"{self.address}/{LABEL}"
        with self.reached():
            content = remote.read(label)
            if content is None and create:
                if others := [entry.name for entry in remote.listing(self.address) if entry.name != LABEL]:
                    raise InputError(
                        f"store: {self.address} holds something else ({others[0]}); choose an empty address"
                    )
                remote.created(label, new_label())
                content = remote.read(label)
            if content is None:
                raise Unavailable(f"store: {self.address}: no store (no {LABEL})")
            if create and not self._refuses:
                if remote.created(label, content):  # the same content, so that it does no harm
                    raise InputError(
                        f"store: {self.address}: the server writes over what is there, and ignores `If-None-Match`; a "
                        "store needs a server with conditional writes"
                    )
                self._refuses = True
            self.root.mkdir(parents=True, exist_ok=True)
            write_durable(self.root / LABEL, content)
        return super().identity()

    def labelled(self) -> bool:
        with self.reached():
            return remote.read(f"{self.address}/{LABEL}") is not None

    def share(self, name: str) -> None:
        with self.reached():
            remote.created(f"{self.address}/{name}", (self.root / name).read_bytes())

    def bring(self, name: str) -> None:
        if not (self.root / name).exists():
            with self.reached():
                if (content := remote.read(f"{self.address}/{name}")) is not None:
                    self.root.mkdir(parents=True, exist_ok=True)
                    write_durable(self.root / name, content)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"store: {self.address}: {error}") from error


def _files(folder: Path) -> list[str]:
    """Returns the names of an artefact's files, without its signatures."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in names if not name.startswith(f"{SIGNATURES}/")]


def opened(name: str | Path) -> Store:
    """Returns the store in a folder, or below an address on an object store."""
    return RemoteStore(str(name)) if remote.is_remote(name) else Store(name)
