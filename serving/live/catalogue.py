"""The catalogue of live versions: a registry with its store, or a plain folder of grafts.

The server never takes a path from a client. A client names a task; the catalogue says which version that is and where
its artefact lies.
"""

from __future__ import annotations

import itertools
import logging
import stat
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adapters.artefact.manifest import CANARY, MANIFEST, OPTIONAL, TENSORS, read_manifest
from adapters.artefact.scripts import FAULTS
from backbone.errors import InputError, nearest, shown
from registry.budgets.budget import Budgets
from registry.budgets.figures import figures_of, unrecorded
from registry.budgets.judge import judged
from registry.budgets.signers import Unsigned
from registry.database import Registry
from registry.entries import LogPosition, NoRegistry, Unavailable, iso_time, require_task
from registry.store import Store
from serving.live.readers import Readers
from serving.live.standing import KEPT, FollowState, History

log = logging.getLogger(__name__)

T = TypeVar("T")

RUN_GRAFT = "graft"  # name of the graft in a work folder of `topgraft train`
RUN_CONFIG = "config.json"  # file that every work folder has
DAMAGED = "damaged"  # name of the version of a graft with an unreadable manifest
UNKNOWN = "unknown"  # name of the version of a graft whose variant this process does not know as it was made
AMBIGUOUS = "ambiguous"  # name of the version of a task that two folders have
STORE_SECONDS = 5.0  # seconds for a store to say which one it is
MANIFEST_SECONDS = 5.0  # seconds for a manifest of a folder to be read
MAX_LOOKS, MAX_NAMED = 2000, 5  # deeper folders that are looked at, and those of them that are named
CATALOGUE_SECONDS = 30.0  # seconds for a catalogue to answer


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

    def standing(self, lives: Mapping[str, Entry], served: Collection[str]) -> FollowState:
        """Returns what the source is since `change`, where it says `lives` and the tasks `served` are served."""
        ...

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        ...

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; raises InputError if it or a file in it is a symbolic link."""
        ...

    def over_budget(self, entry: Entry) -> str:
        """Returns the limits of the team's budget that a version breaks; "" if it keeps them."""
        ...


def plain_graft(path: Path) -> Path:
    """Returns `path`; raises InputError if it or a file of it is a link: an artefact points nowhere else."""
    for part in (path, *(path / name for name in (MANIFEST, TENSORS, CANARY, *OPTIONAL))):
        if part.is_symlink():
            raise InputError(f"{part}: a symbolic link; a graft is a folder of plain files")
    return path


class RegistryCatalogue:
    """The live versions of a registry; their artefacts are in its store."""

    def __init__(
        self, registry: Registry, store: Store, store_seconds: float = STORE_SECONDS, budgets: Budgets | None = None
    ):
        self._registry, self._store, self._budgets = registry, store, budgets or Budgets()
        self._history, self._now = History(), LogPosition("", 0, "")
        self._readers = Readers("store", seconds=store_seconds)

    def change(self) -> object:
        """Returns the end of the log of promotions."""
        self._now = self._registry.change()
        return self._now

    def standing(self, lives: Mapping[str, Entry], served: Collection[str]) -> FollowState:
        """Returns what registry and store are to what was followed before."""
        now = self._now
        state = self._history.judge(now, served - lives.keys())
        if not state.follows:
            return state
        if not self._history.follows(now):
            self._history.follow(now, self._registry.entries(now.position - KEPT, KEPT))
        return state if state.word != "current" else self._standing_of_store()

    def _standing_of_store(self) -> FollowState:
        expected = self._registry.store_id()
        try:
            store_id = self._readers.call("identity", f"store: {self._store.root}", self._store.identity)
        except (InputError, Unavailable, OSError) as error:
            return FollowState("no_store", str(error)) if expected is not None else FollowState()
        if expected not in (None, store_id):
            reason = f"store: {self._store.root} is {store_id[:8]}, and the registry's is {str(expected)[:8]}"
            return FollowState("another_store", reason)
        return FollowState()

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        return {
            task: Entry(task, str(live.version), live.content_id, live.generation, {"previous": live.previous})
            for task, live in self._registry.lives().items()
        }

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        if not (version.isascii() and version.isdecimal() and len(version) <= 9 and int(version)):
            raise InputError(f"version: {shown(version)} is not the number of a version")
        try:
            record = self._registry.version(task, int(version))
        except NoRegistry as error:  # it was there at the start: a version is no wrong one for that
            raise Unavailable(str(error)) from error
        origin = {"parent": record.parent, "created_at": iso_time(record.created_at), "metrics": record.metrics}
        return Entry(task, str(record.number), record.content_id, lineage={**origin, **record.lineage})

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; raises InputError for a link, and for one without the signatures of the policy."""
        folder = plain_graft(self._store.path(entry.content_id))
        try:
            self._budgets.signers.require(folder)
        except Unsigned as error:
            raise InputError(str(error)) from error
        return folder

    def over_budget(self, entry: Entry) -> str:
        """Returns the limits of the team's budget that a version breaks, as recorded; "" for none."""
        if not (budget := self._budgets.of(entry.task)):
            return ""
        version = self._registry.version(entry.task, int(entry.version))
        measurements = self._registry.measurements(entry.task, version.number)
        figures = figures_of(version, measurements, unrecorded(version, self._store))
        return "; ".join(str(one) for one in judged(budget, version.number, figures) if one.verdict == "FAIL")


def _is_name(name: str) -> bool:
    try:
        return bool(require_task(name))
    except InputError:
        return False


class FolderCatalogue:
    """A folder of grafts: each is served under the name of its folder, and its version is its content.

    FOLDER/NAME and FOLDER/NAME/graft, which `topgraft train --workdir FOLDER/NAME` writes, are the task NAME. FOLDER
    may itself be a graft or a work folder. Nothing deeper is searched. Replacing a graft by a rename is a promotion. A
    graft in a folder with a name that no task may have is not served. One that cannot be read, or whose manifest does
    not arrive in time, harms no other: it is an entry without content, and a request for it gets the reason.
    """

    def __init__(self, folder: str | Path, manifest_seconds: float = MANIFEST_SECONDS):
        """Raises InputError if there is no graft, or if two grafts have the name of one task."""
        self._folder = Path(folder)
        self._readers = Readers("manifest", seconds=manifest_seconds)
        if not self._folder.is_dir():
            raise InputError(f"--grafts: {folder} is not a folder")
        self._known: dict[Path, tuple[object, Entry]] = {}  # mark of each manifest when it was read, and its entry
        for task, places in self._grafts().items():
            if len(places) > 1:
                raise InputError(_twice(task, places))
        for place in _unnamed(self._folder):
            log.warning("%s is not served: its folder's name is no name of a task; rename it", place)
        for place in _deeper(self._folder):
            log.warning("%s is not served: it lies deeper than is searched; move it up, or name its folder", place)

    def _grafts(self) -> dict[str, list[Path]]:
        """Returns the folders of the grafts of each task: one, or several by mistake.

        Raises InputError if there is none: a folder that is empty all at once is a volume that is not mounted.
        """
        grafts: dict[str, list[Path]] = {}
        for task, place in _places(self._folder):
            if _is_name(task):
                grafts.setdefault(task, []).append(place)
        if not grafts:
            unnamed = "".join(f"; {place}: no name of a task, rename its folder" for place in _unnamed(self._folder))
            unnamed += "".join(f"; {place} lies deeper: name the folder above it" for place in _deeper(self._folder))
            raise InputError(
                f"--grafts: {self._folder} holds no graft, neither in NAME/ nor in NAME/{RUN_GRAFT}/{unnamed}; make "
                f"one with `topgraft train CONFIG --workdir {self._folder / 'NAME'}`, or name the folder above"
            )
        return grafts

    def change(self) -> object:
        """Returns name, inode and time of every manifest."""
        return tuple((task, *map(_mark, places)) for task, places in self._grafts().items())

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        entries = {task: self._entry(task, places) for task, places in self._grafts().items()}
        here = {places[0] for places in self._grafts().values()}
        self._known = {path: known for path, known in self._known.items() if path in here}
        return entries

    def standing(self, lives: Mapping[str, Entry], served: Collection[str]) -> FollowState:
        """Returns that the folder is what it says: one without grafts raises before."""
        return FollowState()

    def over_budget(self, entry: Entry) -> str:
        """Returns "": nobody records figures of a folder's grafts."""
        return ""

    def _entry(self, task: str, places: list[Path]) -> Entry:
        """Returns the entry of a task. One without content stays one, so that the reason reaches who asks for it."""
        try:
            if len(places) > 1:
                return Entry(task, AMBIGUOUS, f"{AMBIGUOUS}:{task}", lineage={"error": _twice(task, places)})
            path, mark = places[0], _mark(places[0])
            if path in self._known and self._known[path][0] == mark:
                return self._known[path][1]
            manifest = self._readers.call(path, f"{path / MANIFEST}", lambda: read_manifest(path))
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes of its reader
            version = UNKNOWN if isinstance(error, FAULTS) else DAMAGED
            return Entry(task, version, f"{version}:{task}", lineage={"error": str(error) or type(error).__name__})
        version = manifest.content_id.removeprefix("sha256:")[:12]
        lineage = {"metrics": manifest.training.metrics, "data": manifest.training.data}
        entry = Entry(task, version, manifest.content_id, lineage=lineage)
        self._known[path] = mark, entry
        return entry

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
        path, *others = grafts[entry.task]
        if others:
            raise InputError(_twice(entry.task, grafts[entry.task]))
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
    return [(name, place) for name, place in places if _holds_manifest(place)]


def _holds_manifest(place: Path) -> bool:
    """Returns whether there is a manifest, of whatever kind; one in a folder that may not be read is none."""
    try:
        return not stat.S_ISDIR((place / MANIFEST).stat().st_mode)
    except OSError:
        return False


def _mark(place: Path) -> object:
    """Returns what changes with a manifest."""
    try:
        status = (place / MANIFEST).stat()
    except OSError as error:
        return error.errno
    return (str(place), status.st_ino, status.st_mtime_ns, status.st_size)


def _twice(task: str, places: list[Path]) -> str:
    """Returns the message for folders that have the name of one task."""
    return (
        f"--grafts: {' and '.join(map(str, places))} are both the task {task!r}: a graft has the name of its folder; "
        "rename or move one of them"
    )


def _unnamed(folder: Path) -> list[Path]:
    """Returns the grafts whose folder has no name of a task, without hidden ones: those are being written."""
    return [place for name, place in _places(folder) if not _is_name(name) and not name.startswith(".")]


def _deeper(folder: Path) -> list[Path]:
    """Returns the first grafts that lie one folder deeper than is searched, beside no graft of their folder."""
    searched = {place for _, place in _places(folder)}
    inner = (
        place
        for part in sorted(folder.iterdir())
        if not searched & {part, part / RUN_GRAFT} and not part.name.startswith(".")
        for one in _folders_of(part)
        for place in (one, one / RUN_GRAFT)
    )
    return list(itertools.islice(filter(_holds_manifest, itertools.islice(inner, MAX_LOOKS)), MAX_NAMED))


def _folders_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # a file, or a folder that may not be read
        return []


class Timely:
    """A catalogue whose answers have a deadline: a database or a disk that hangs raises Unanswered, an OSError."""

    def __init__(self, catalogue: Catalogue, seconds: float = CATALOGUE_SECONDS):
        """Gives `lives` ten times as long: it may read every manifest of a folder."""
        self._catalogue = catalogue
        self._readers = Readers("catalogue", seconds=seconds)
        self._slow = Readers("lives", seconds=10 * seconds)

    def change(self) -> object:
        """Returns a value that differs whenever other versions are live."""
        return self._ask("change", self._catalogue.change)

    def lives(self) -> dict[str, Entry]:
        """Returns the live version of every task."""
        return self._slow.call("lives", "the catalogue", self._catalogue.lives)

    def version(self, task: str, version: str) -> Entry:
        """Returns one version of a task; raises InputError if there is none."""
        return self._ask((task, version), lambda: self._catalogue.version(task, version))

    def standing(self, lives: Mapping[str, Entry], served: Collection[str]) -> FollowState:
        """Returns what the source is to what was followed before."""
        return self._ask("standing", lambda: self._catalogue.standing(lives, served))

    def path(self, entry: Entry) -> Path:
        """Returns the graft folder; its reader has a deadline of its own."""
        return self._catalogue.path(entry)

    def over_budget(self, entry: Entry) -> str:
        """Returns the limits of the team's budget that a version breaks; "" if it keeps them."""
        return self._ask(("budget", entry.task, entry.version), lambda: self._catalogue.over_budget(entry))

    def _ask(self, key: Hashable, question: Callable[[], T]) -> T:
        return self._readers.call(key, "the catalogue", question)

    def close(self) -> None:
        """Waits for no answer any more."""
        self._readers.close()
        self._slow.close()
