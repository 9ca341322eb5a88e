"""The catalogue of live versions: a registry with its store, or a plain folder of grafts.

The server never takes a path from a client. A client names a task; the catalogue says which version that is and where
its artefact lies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.artefact.manifest import CANARY, MANIFEST, OPTIONAL, TENSORS, read_manifest
from adapters.artefact.scripts import FAULTS
from backbone.errors import InputError, nearest
from registry.database import Registry
from registry.entries import require_task
from registry.store import Store

log = logging.getLogger(__name__)

RUN_GRAFT = "graft"  # name of the graft in a work folder of `topgraft train`
RUN_CONFIG = "config.json"  # file that every work folder has
DAMAGED = "damaged"  # name of the version of a graft with an unreadable manifest
UNKNOWN = "unknown"  # name of the version of a graft whose variant this process does not know as it was made


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
    """A folder of grafts: each is served under the name of its folder, and its version is its content.

    FOLDER/NAME and FOLDER/NAME/graft, which `topgraft train --workdir FOLDER/NAME` writes, are the task NAME. FOLDER
    may itself be a graft or a work folder. Nothing deeper is searched. Replacing a graft by a rename is a promotion. A
    graft in a folder with a name that no task may have is not served.
    """

    def __init__(self, folder: str | Path):
        """Raises InputError if there is no graft, or if two grafts have the name of one task."""
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise InputError(f"--grafts: {folder} is not a folder")
        self._grafts()
        for place in _unnamed(self._folder):
            log.warning("%s is not served: its folder's name is no name of a task; rename it", place)

    def _grafts(self) -> dict[str, Path]:
        """Returns the folder of the graft of each task.

        Raises InputError if there is none: a folder that is empty all at once is a volume that is not mounted.
        """
        grafts: dict[str, Path] = {}
        for task, place in _places(self._folder):
            if task in grafts:
                raise InputError(
                    f"--grafts: {grafts[task]} and {place} are both the task {task!r}: a graft has the name of its "
                    "folder; rename or move one of them"
                )
            if _is_name(task):
                grafts[task] = place
        if not grafts:
            unnamed = "".join(f"; {place}: no name of a task, rename its folder" for place in _unnamed(self._folder))
            raise InputError(
                f"--grafts: {self._folder} holds no graft, neither in NAME/ nor in NAME/{RUN_GRAFT}/{unnamed}; make "
                f"one with `topgraft train CONFIG --workdir {self._folder / 'NAME'}`, or name the folder above"
            )
        return grafts

    def change(self) -> object:
        """Returns name, inode and time of every manifest."""
        stats = [(task, (path / MANIFEST).stat()) for task, path in self._grafts().items()]
        return tuple((task, stat.st_ino, stat.st_mtime_ns) for task, stat in stats)

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        entries = {}
        for task, path in self._grafts().items():
            try:
                manifest = read_manifest(path)
            except InputError as error:  # kept as an entry: a request for it gets the reason
                version = UNKNOWN if isinstance(error, FAULTS) else DAMAGED
                entries[task] = Entry(task, version, f"{version}:{task}", lineage={"error": str(error)})
                continue
            version = manifest.content_id.removeprefix("sha256:")[:12]
            lineage = {"metrics": manifest.training.metrics, "data": manifest.training.data}
            entries[task] = Entry(task, version, manifest.content_id, lineage=lineage)
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
        grafts = self._grafts()
        if entry.task not in grafts:
            raise InputError(f"{entry.task}: its graft is no longer in {self._folder}")
        path = grafts[entry.task]
        if path.parent != self._folder and path.parent.is_symlink():  # FOLDER/NAME/graft
            raise InputError(f"{path.parent}: a symbolic link; a graft is a folder of plain files")
        return plain_graft(path)


def _places(folder: Path) -> list[tuple[str, Path]]:
    """Returns the names and folders of the grafts in a folder of grafts, itself included, without reading them."""
    whole = folder.absolute()
    in_run = whole.name == RUN_GRAFT and (whole.parent / RUN_CONFIG).is_file()
    places = [((whole.parent if in_run else whole).name, folder)]
    for part in sorted(folder.iterdir()):
        of_this_run = part.name == RUN_GRAFT and (folder / RUN_CONFIG).is_file()
        places += [(whole.name if of_this_run else part.name, part), (part.name, part / RUN_GRAFT)]
    return [(name, place) for name, place in places if (place / MANIFEST).is_file()]


def _unnamed(folder: Path) -> list[Path]:
    """Returns the grafts whose folder has no name of a task, without hidden ones: those are being written."""
    return [place for name, place in _places(folder) if not _is_name(name) and not name.startswith(".")]
