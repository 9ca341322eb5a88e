"""A store on an object store (`s3://`, `gs://`), with a copy in the home of the artefacts that were used here.

Objects are written once and never change; an artefact is there when its manifest is, which is written last. What a
registry uses, and what may be removed, is not noted there: `gc` refuses such a store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from adapters.artefact.manifest import MANIFEST
from adapters.artefact.read import read_graft
from adapters.artefact.scripts import FAULTS
from backbone import remote
from backbone.errors import InputError
from backbone.files import new_folder, write_durable
from backbone.home import home
from backbone.records import digest
from registry.entries import Unavailable
from registry.store import LABEL, Store, new_label


class RemoteStore(Store):
    """A store below an address."""

    collects = False

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        super().__init__(home() / "stores" / digest(self.address).removeprefix("sha256:")[:32])

    @property
    def place(self) -> str:
        return self.address

    def add(self, graft: str | Path) -> tuple[str, str]:
        content_id, name = super().add(graft)
        folder = self.root / name
        files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        with self.reached():
            remote.upload(folder, [*(file for file in files if file != MANIFEST), MANIFEST], f"{self.address}/{name}")
        return content_id, name

    def path(self, content_id: str) -> Path:
        """Returns the folder of an artefact in the home, downloaded and verified; without its files where it is not."""
        folder = super().path(content_id)
        if folder.exists():
            return folder
        with self.reached():
            entries = remote.listing(f"{self.address}/{folder.name}")
            if MANIFEST not in [entry.name for entry in entries]:
                return folder
            try:
                with new_folder(folder) as temporary:
                    remote.download(self.address, entries, temporary)
                    if (other := read_graft(temporary)[0].content_id) != content_id:
                        raise InputError(f"holds another graft, {other}")
            except FAULTS:  # a script is missing or has changed; the artefact is whole
                raise
            except InputError as error:
                if not folder.exists():  # else another process was faster
                    raise InputError(f"{self.address}/{folder.name}: {error}; restore it from a copy") from error
        return folder

    def identity(self, *, create: bool = False) -> str:
        with self.reached():
            content = remote.read(f"{self.address}/{LABEL}")
            if content is None and create:
                if entries := remote.listing(self.address):
                    raise InputError(
                        f"store: {self.address} holds something else ({entries[0].name}); choose an empty address"
                    )
                remote.created(f"{self.address}/{LABEL}", new_label())
                content = remote.read(f"{self.address}/{LABEL}")
            if content is None:
                raise Unavailable(f"store: {self.address}: no store (no {LABEL})")
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


def opened(name: str | Path) -> Store:
    """Returns the store in a folder, or below an address on an object store."""
    return RemoteStore(str(name)) if remote.is_remote(name) else Store(name)
