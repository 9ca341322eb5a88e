"""Removal of old artefacts: only of those that this registry published, and that nobody names.

`collect` removes an artefact in two steps that a kill may separate. First the version is marked, under the lock of its
task. Then its folder is removed, under the lock that publishers hold, unless a version needs it again. The next
`collect` finishes what a killed process left half done.

What somebody else put into the store stays: files, folders, links, devices and pipes, and whatever another registry
names (`registry.users`).
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, select

from adapters.artefact.manifest import CANARY, MANIFEST, OPTIONAL, TENSORS
from backbone.errors import InputError
from backbone.files import remove_abandoned
from backbone.texts import load_json
from registry import leases, tables
from registry.database import STORE, Registry
from registry.store import Store, rows_name
from registry.users import Uses

FORGOTTEN = 24 * 3600.0  # seconds after which a publication that did not end may be removed
LOST = 30 * FORGOTTEN  # seconds after which the artefact of a version may be removed that a restored registry lacks
PARTS = frozenset({MANIFEST, TENSORS, CANARY, *OPTIONAL})  # files of an artefact
_ARTEFACT = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\.(store\.json|[0-9a-f]{32}\.rows\.npz)\.tmp-.+")  # a file beside the artefacts, half written
_ROWS = re.compile(r"[0-9a-f]{32}\.rows\.npz")  # hashes of the rows that artefacts were made from
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.(?:tmp-.+|gone)")


@dataclass(frozen=True)
class Collected:
    """The versions that `collect` removed, or would remove."""

    dry_run: bool
    versions: dict[str, list[int]] = field(default_factory=dict)  # numbers of the collected versions, by task
    leased: list[str] = field(default_factory=list)  # tasks left alone because a run is at work
    removed: list[str] = field(default_factory=list)  # folders of the store that were removed
    rows: list[str] = field(default_factory=list)  # files with the hashes of rows, of which no artefact is left
    bytes: int = 0  # size of these folders and files
    shared: list[str] = field(default_factory=list)  # folders left because another registry names them
    left: dict[str, str] = field(default_factory=dict)  # reason by folder left because of what it holds


def collect(registry: Registry, store: Store, *, keep: int, dry_run: bool = False, moved: bool = False) -> Collected:
    """Removes the artefacts of old versions, and publications that were never finished.

    Of each task these stay: the live version, the one that a rollback makes live, the one that was live before, and
    the `keep` newest. A leased task is left alone. Versions stay in the registry, marked as collected. Raises
    InputError for a copy of a registry, unless it was `moved`.
    """
    if keep < 0:
        raise InputError(f"keep: must not be negative, got {keep}")
    tasks = registry.tasks()
    if not tasks and not store.labelled():
        return Collected(dry_run)
    with registry.database.reading() as connection:
        registry.require_store(connection, store)
    if not dry_run:
        registry.database.forward()
    registry_id = registry.change().registry
    uses = (
        Uses(store, registry_id) if registry_id else None
    )  # None: former tables that only a dry run leaves as they are
    if uses is not None:
        require_original(registry, uses, dry_run=dry_run, moved=moved)
        if not dry_run:
            mark(registry, uses)
            _remove_temporary_files(store, uses)
    chosen, at_work = _choose(registry, tasks, keep, dry_run=dry_run)
    work = _Removal(registry, store, uses, chosen if dry_run else {}, Collected(dry_run, chosen, at_work))
    return work.run()


def _choose(
    registry: Registry, tasks: list[str], keep: int, *, dry_run: bool
) -> tuple[dict[str, list[int]], list[str]]:
    """Returns the versions that nothing protects, marked as collected unless `dry_run`, and the leased tasks."""
    chosen: dict[str, list[int]] = {}
    at_work = []
    for task in tasks:
        with registry.database.reading() if dry_run else registry.database.writing(task) as connection:
            if task in leases.leased(connection, registry.database.time(connection)):
                at_work.append(task)
                continue
            numbers = _disposable(connection, task, keep)
            if numbers:
                chosen[task] = numbers
            if numbers and not dry_run:
                these = (tables.versions.c.task == task) & tables.versions.c.number.in_(numbers)
                connection.execute(tables.versions.update().where(these).values(state="collected"))
    return chosen, at_work


def _disposable(connection: Connection, task: str, keep: int) -> list[int]:
    """Returns the published versions of a task that nothing protects, oldest first."""
    mine = tables.versions.c.task == task
    newest = select(tables.versions.c.number).where(mine).order_by(tables.versions.c.number.desc()).limit(keep)
    kept = set(connection.execute(newest).scalars())
    last = select(tables.promotions).where(tables.promotions.c.task == task)
    entry = connection.execute(last.order_by(tables.promotions.c.generation.desc()).limit(1)).first()
    before = connection.execute(select(tables.live.c.previous).where(tables.live.c.task == task)).scalar_one_or_none()
    if entry is not None:
        kept |= {entry.from_version, entry.to_version, before}
    published = select(tables.versions.c.number).where(mine, tables.versions.c.state == "published")
    return [n for n in connection.execute(published.order_by(tables.versions.c.number)).scalars() if n not in kept]


@dataclass(frozen=True)
class _Removal:
    """The second step: folders that no version needs any more."""

    registry: Registry
    store: Store
    uses: Uses | None
    going: dict[str, list[int]]  # versions that a dry run counts as collected, by task
    result: Collected

    def run(self) -> Collected:
        """Removes what it may, and returns what that was."""
        names, freed = self._candidates(), 0
        for name in names:
            folder = self.store.root / name
            with (
                self.registry.database.reading()
                if self.result.dry_run
                else self.registry.database.writing(STORE) as connection
            ):
                if self._needed(connection, name):
                    continue
                if not self.result.dry_run and not folder.exists() and not folder.is_symlink():
                    self._forget(name)
                    continue
                size = self._measured(folder)
                if size is None or self._shared(name):
                    continue
                gone = folder if self.result.dry_run else self._away(folder)
            if gone is not None:
                self.result.removed.append(name)
                freed += size
            if gone is not None and not self.result.dry_run:
                with self.store.reached():
                    shutil.rmtree(gone)
                self._forget(name)
        freed += self._remove_rows()
        return Collected(**vars(self.result) | {"bytes": freed})

    def _remove_rows(self) -> int:
        """Removes files with the hashes of rows that no artefact was made from, of any registry; returns their bytes.

        One that a publication is about to use is new. While an artefact cannot be read, all of them stay.
        """
        with self.store.reached():
            names = sorted(path.name for path in self.store.root.iterdir())
        old = [name for name in names if _ROWS.fullmatch(name) and self._age(name) > FORGOTTEN]
        folders = [name for name in names if _ARTEFACT.fullmatch(name) and name not in self.result.removed]
        named = [_rows_of(self.store.root / name) for name in folders] if old else []
        if None in named:
            self.result.left[folders[named.index(None)]] = "cannot be read, so files of rows stay"
            return 0
        freed = 0
        for name in old:
            path = self.store.root / name
            if name in named or not stat.S_ISREG(path.lstat().st_mode):
                continue
            freed += path.lstat().st_size
            self.result.rows.append(name)
            if not self.result.dry_run:
                with self.store.reached():
                    path.unlink(missing_ok=True)
        return freed

    def _candidates(self) -> list[str]:
        """Returns names of folders that this registry published, or began to, and leftovers of copies and removals."""
        with self.registry.database.reading() as connection:
            rows = connection.execute(select(tables.versions.c.path, tables.versions.c.state)).all()
        names = {row.path for row in rows if row.state == "collected" or self.result.dry_run}
        named, pending = self._marks()
        names |= {name for name, age in pending.items() if max(age, self._age(name)) > FORGOTTEN}
        names |= {
            name for name in named.keys() - {row.path for row in rows} if min(named[name], self._age(name)) > LOST
        }
        with self.store.reached():
            present = {path.name for path in self.store.root.iterdir()}
        unfinished = [name for name in present if _UNFINISHED.fullmatch(name) and self._left_over(name)]
        present |= named.keys() | pending.keys()
        return [*sorted(unfinished), *sorted(name for name in names if _ARTEFACT.fullmatch(name) and name in present)]

    def _marks(self) -> tuple[dict[str, float], dict[str, float]]:
        return (self.uses.named(), self.uses.under_way()) if self.uses is not None else ({}, {})

    def _left_over(self, name: str) -> bool:
        return name.endswith(".gone") or self._age(name) > FORGOTTEN

    def _age(self, name: str) -> float:
        """Returns the age of a folder in seconds; 0 if there is none."""
        try:
            return time.time() - (self.store.root / name).lstat().st_mtime
        except OSError:
            return 0.0

    def _needed(self, connection: Connection, name: str) -> bool:
        """Returns True if a version of this registry uses the folder, or a publisher may be about to."""
        rows = connection.execute(select(tables.versions).where(tables.versions.c.path == name)).all()
        if any(row.state == "published" and row.number not in self.going.get(row.task, ()) for row in rows):
            return True
        age = self.uses.age(name) if self.uses is not None else None
        return age is not None and max(age, self._age(name)) < FORGOTTEN

    def _measured(self, folder: Path) -> int | None:
        """Returns the bytes of a folder; None, and the reason in the result, if it is more than a graft."""
        with self.store.reached():
            if not folder.exists() and not folder.is_symlink():
                return None
            if not stat.S_ISDIR(folder.lstat().st_mode):
                self.result.left[folder.name] = "no folder"
                return None
            parts = [(path, path.lstat()) for path in folder.iterdir()]
        strange = [path.name for path, info in parts if path.name not in PARTS or not stat.S_ISREG(info.st_mode)]
        if strange:
            self.result.left[folder.name] = f"holds {strange[0]}, which is no part of a graft"
            return None
        return sum(info.st_size for _, info in parts)

    def _shared(self, name: str) -> bool:
        """Returns True if another registry names the folder; then this one forgets it."""
        if self.uses is None or not self.uses.others(name):
            return False
        self.result.shared.append(name)
        if not self.result.dry_run:
            self.uses.forget(name)
        return True

    def _away(self, folder: Path) -> Path | None:
        """Renames a folder so that it is no artefact any more; None if another registry began to need it meanwhile."""
        gone = folder.with_name(f".{folder.name.lstrip('.')}.gone") if folder.suffix != ".gone" else folder
        with self.store.reached():
            folder.rename(gone)
            if self.uses is None or not self.uses.others(folder.name):
                return gone
            if not folder.exists():
                gone.rename(folder)
        self.result.shared.append(folder.name)
        return None

    def _forget(self, name: str) -> None:
        if self.uses is not None and _ARTEFACT.fullmatch(name):
            self.uses.forget(name)


def _rows_of(folder: Path) -> str | None:
    """Returns the name of the file with the rows that an artefact was made from; None where it cannot be read."""
    try:
        prints = load_json((folder / MANIFEST).read_bytes())["training"]["data"]
        return rows_name(prints)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark(registry: Registry, uses: Uses) -> None:
    """Marks everything that versions of this registry name: former versions left no marks, nor does a kill."""
    with registry.database.reading() as connection:
        published = select(tables.versions.c.path).where(tables.versions.c.state == "published").distinct()
        paths = set(connection.execute(published).scalars())
    uses.finish(*(paths - uses.named().keys()), *(paths & uses.under_way().keys()))


def _remove_temporary_files(store: Store, uses: Uses) -> None:
    """Removes files that killed writers left in the store; a living writer has a lock on its own."""
    with store.reached():
        names = {match[1] for path in store.root.iterdir() if (match := _TEMPORARY.fullmatch(path.name))}
        for path in (uses.label, *(store.root / name for name in names)):
            remove_abandoned(path)


def require_original(registry: Registry, uses: Uses, *, dry_run: bool = False, moved: bool = False) -> None:
    """Raises InputError if the registry is a copy: what it does not name, its original may.

    A SQLite file that is no longer at its former place was moved, and the store learns of it.
    """
    here = registry.database.place()
    known = here if dry_run and not uses.label.exists() else uses.claim(here)
    if known == here:
        return
    if not moved and not _is_gone(known, here, registry.change().registry):
        raise InputError(
            f"registry: this store knows it as {known}, and here it is {here}: a copy, whose gc would remove what the "
            "original names. Run gc there. If it was moved, or store and registry were copied together: gc --moved"
        )
    if not dry_run:
        uses.move(here)


def _is_gone(known: str, here: str, registry_id: str) -> bool:
    """Returns True if the registry is a file that is not at its former place any more."""
    if not (known.startswith("sqlite:") and here.startswith("sqlite:")):
        return False
    former, present = (Path(place.removeprefix("sqlite:")) for place in (known, here))
    try:
        if not former.exists() or former.samefile(present):
            return True
        with closing(sqlite3.connect(f"file:{quote(str(former))}?mode=ro", uri=True)) as connection:
            row: tuple[str] | None = connection.execute("select registry_id from identity").fetchone()
            return row != (registry_id,)
    except (OSError, sqlite3.Error):
        return False
