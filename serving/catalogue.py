"""The catalogue of live versions: a registry with its store, or a plain folder of grafts.

The server never takes a path from a client. A client names a task; the catalogue says which version that is and where
its artefact lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.artefact.manifest import CANARY, MANIFEST, OPTIONAL, TENSORS, read_manifest
from backbone.errors import InputError, nearest
from backbone.registered import UnknownVariant
from registry.database import Registry
from registry.entries import require_task
from registry.store import Store

DAMAGED = "damaged"  # name of the version of a graft with an unreadable manifest
UNKNOWN = "unknown"  # name of the version of a graft with a variant that this process does not know


@dataclass(frozen=True)
class Entry:
    """One version of a task."""

    task: str
    version: str
    content_id: str
    generation: int = 0  # promotions of the task so far; 0 if nobody counts them
    lineage: dict[str, Any] = field(default_factory=dict)  # origin of the version, for people: data, metrics, parent


class Catalogue(Protocol):
    """A source of live versions. Any method may raise when the source does not answer."""

    def change(self) -> object:
        """Returns a value that differs whenever other versions are live; cheap to poll."""
        ...

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        ...

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        ...

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; raises InputError if it or a file in it is a symbolic link."""
        ...


def plain_graft(path: Path) -> Path:
    """Returns `path`; raises InputError if it or a file of it is a link: an artefact points nowhere else."""
    for part in (path, *(path / name for name in (MANIFEST, TENSORS, CANARY, *OPTIONAL))):
        if part.is_symlink():
            raise InputError(f"{part}: a symbolic link; a graft is a folder of plain files")
    return path


class RegistryCatalogue:
    """The live versions of a registry; their artefacts are in its store."""

    def __init__(self, registry: Registry, store: Store):
        self._registry, self._store = registry, store

    def change(self) -> object:
        """Returns the number of promotions of all tasks."""
        return self._registry.change()

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        return {
            task: Entry(task, str(live.version), live.content_id, live.generation, {"previous": live.previous})
            for task, live in self._registry.lives().items()
        }

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        if not version.isdecimal():
            raise InputError(f"version: {version!r} is not the number of a version")
        record = self._registry.version(task, int(version))
        origin = {"parent": record.parent, "created_at": record.created_at, "metrics": record.metrics}
        return Entry(task, version, record.content_id, lineage={**origin, **record.lineage})

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; raises InputError for a symbolic link."""
        return plain_graft(self._store.path(entry.content_id))


def _is_name(name: str) -> bool:
    try:
        return bool(require_task(name))
    except InputError:
        return False


class FolderCatalogue:
    """A folder of grafts: each subfolder is served under its name, and its version is its content.

    Replacing a subfolder by a rename is a promotion. A subfolder with a name that no task may have is ignored.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise InputError(f"--grafts: {folder} is not a folder")

    def _grafts(self) -> list[Path]:
        return [p for p in sorted(self._folder.iterdir()) if _is_name(p.name) and (p / MANIFEST).is_file()]

    def change(self) -> object:
        """Returns name, inode and time of every manifest."""
        stats = [(path.name, (path / MANIFEST).stat()) for path in self._grafts()]
        return tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats)

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        entries = {}
        for path in self._grafts():
            try:
                manifest = read_manifest(path)
            except InputError as error:  # kept as an entry: a request for it gets the reason
                version = UNKNOWN if isinstance(error, UnknownVariant) else DAMAGED
                entries[path.name] = Entry(path.name, version, f"{version}:{path.name}", lineage={"error": str(error)})
                continue
            version = manifest.content_id.removeprefix("sha256:")[:12]
            lineage = {"metrics": manifest.training.metrics, "data": manifest.training.data}
            entries[path.name] = Entry(path.name, version, manifest.content_id, lineage=lineage)
        return entries

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        entry = self.lives().get(task)
        if entry is None or entry.version != version:
            known = [] if entry is None else [entry.version]
            raise InputError(f"{task}: no version {version!r}; {nearest(version, known)}")
        return entry

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; raises InputError for a symbolic link."""
        return plain_graft(self._folder / require_task(entry.task))
