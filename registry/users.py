"""The registries that use a store, and what each of them names there: several may share one.

    STORE/registries/<registry id>.json        the place of the registry, made once
    STORE/registries/<registry id>/<hash>      a version of that registry names this artefact
    STORE/registries/<registry id>/<hash>.new  a publication of it is under way, or was killed

A publisher leaves its mark before it looks for the artefact. `gc` takes the artefact away first and then looks for
marks of others. So one of the two always sees the other, without a lock that they would share.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

from backbone.errors import InputError
from backbone.files import create_durable, sync_folder, write_durable
from backbone.texts import load_json
from registry.store import USERS, Store

NEW = ".new"  # ending of the mark of a publication that is not committed
_ID = re.compile(r"[0-9a-f]{32}")


class Uses:
    """What one registry names in a store."""

    def __init__(self, store: Store, registry_id: str):
        if not _ID.fullmatch(registry_id):
            raise InputError(
                f"registry: its id {registry_id!r} is not 32 hexadecimal digits; restore it from an export"
            )
        self._store, self._id = store, registry_id
        self._all = store.root / USERS
        self._folder = self._all / registry_id

    def begin(self, name: str) -> None:
        """Marks that the artefact `name` is about to be published."""
        with self._store.reached():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark(name + NEW)

    def finish(self, *names: str) -> None:
        """Marks that versions name the artefacts."""
        with self._store.reached():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark(*names)
            for name in names:
                (self._folder / (name + NEW)).unlink(missing_ok=True)

    def give_up(self, name: str) -> None:
        """Takes back what `begin` marked: nothing was copied."""
        with contextlib.suppress(OSError):
            (self._folder / (name + NEW)).unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Removes the marks of an artefact."""
        with self._store.reached():
            for mark in (name, name + NEW):
                (self._folder / mark).unlink(missing_ok=True)

    def _mark(self, *names: str) -> None:
        for name in names:
            (self._folder / name).touch()
        sync_folder(self._folder)

    def named(self) -> dict[str, float]:
        """Returns the artefacts that versions of this registry name, each with the age of its mark in seconds."""
        return self._ages("")

    def under_way(self) -> dict[str, float]:
        """Returns the artefacts of publications that were not finished, each with the age of its mark in seconds."""
        return self._ages(NEW)

    def age(self, name: str) -> float | None:
        """Returns the age in seconds of the mark of a publication under way; None if there is none."""
        try:
            return time.time() - (self._folder / (name + NEW)).stat().st_mtime
        except OSError:
            return None

    def _ages(self, ending: str) -> dict[str, float]:
        now, ages = time.time(), {}
        for name in self._marks():
            if Path(name).suffix == ending:
                with contextlib.suppress(FileNotFoundError):
                    ages[name.removesuffix(NEW)] = now - (self._folder / name).stat().st_mtime
        return ages

    def _marks(self) -> list[str]:
        with self._store.reached():
            return [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []

    def others(self, name: str) -> list[str]:
        """Returns the ids of the other registries that name the artefact, or are about to."""
        with self._store.reached():
            folders = [path for path in self._all.iterdir() if path.is_dir()] if self._all.is_dir() else []
            rest = [folder for folder in folders if folder.name != self._id]
            return [folder.name for folder in rest if any((folder / mark).exists() for mark in (name, name + NEW))]

    # The place of the registry

    @property
    def label(self) -> Path:
        """Returns the file that says where the registry is."""
        return self._all / f"{self._id}.json"

    def claim(self, place: str) -> str:
        """Returns the place that the store knows for this registry, `place` if none was known."""
        with self._store.reached():
            self._all.mkdir(parents=True, exist_ok=True)
            if not self.label.exists():
                create_durable(self.label, self._content(place))
            try:
                return str(load_json(self.label.read_text(encoding="utf-8"))["place"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.label}: damaged ({error!r}); remove it, and run `gc --moved`") from error

    def move(self, place: str) -> None:
        """Makes `place` the place that the store knows."""
        with self._store.reached():
            write_durable(self.label, self._content(place))

    def _content(self, place: str) -> bytes:
        return json.dumps({"schema": 1, "registry_id": self._id, "place": place}).encode()
