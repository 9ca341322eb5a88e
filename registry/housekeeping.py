"""Looking after a registry: audit, removal of old artefacts, export as text.

`collect` removes an artefact in two steps that a kill may separate. First the version is marked, under the lock of its
task. Then its folder is removed, under the lock that publishers hold, unless a version needs it again. The next
`collect` finishes what a killed process left half done.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from backbone.errors import InputError
from backbone.files import write_durable
from registry import leases, tables
from registry.database import STORE, Registry
from registry.log import before_in
from registry.store import Store

FORGOTTEN = 24 * 3600.0  # seconds after which a copy that no version names may be removed


@dataclass(frozen=True)
class StoreAudit:
    """Counts of what `audit` checked."""

    tasks: int
    versions: int  # versions whose artefact was read, every byte
    collected: int  # versions without artefact
    promotions: int
    orphans: list[str]  # artefacts that no version names; gc removes them after a day


def audit(registry: Registry, store: Store) -> StoreAudit:
    """Reads every artefact and compares live pointers with the log; raises InputError that lists the problems."""
    with registry.database.reading() as connection:
        versions = connection.execute(select(tables.versions).order_by(*tables.versions.primary_key)).all()
        log = connection.execute(select(tables.promotions).order_by(*tables.promotions.primary_key)).all()
        live = {row.task: row for row in connection.execute(select(tables.live))}
    problems = []
    tasks = sorted({row.task for row in (*versions, *log)} | set(live))
    for task in tasks:
        known = {row.number: row for row in versions if row.task == task}
        if sorted(known) != list(range(1, len(known) + 1)):
            problems.append(f"{task}: version numbers have gaps: {sorted(known)}")
        problems += _history_problems(task, [row for row in log if row.task == task], live.get(task), known)
    published = [row for row in versions if row.state == "published"]
    for content_id in sorted({row.content_id for row in published}):
        try:
            store.verify(content_id)
        except InputError as error:
            users = ", ".join(f"{row.task} {row.number}" for row in published if row.content_id == content_id)
            problems.append(f"version {users}: {error}")
    if problems:
        raise InputError(f"{registry.database.where}: {len(problems)} problems:\n  " + "\n  ".join(problems))
    named = {row.path for row in published}
    with store.reached():
        orphans = [path.name for path in _artefacts(store) if path.name not in named] if store.root.exists() else []
    return StoreAudit(len(tasks), len(published), len(versions) - len(published), len(log), orphans)


def _history_problems(task: str, log: list[Any], live: Any, known: dict[int, Any]) -> list[str]:
    """Returns what is wrong with a task's log and live pointer; `known` are its versions by number."""
    problems = []
    if [entry.generation for entry in log] != list(range(1, len(log) + 1)):
        problems.append(f"{task}: the log has gaps")
    for before, entry in zip([None, *log], log, strict=False):
        if entry.from_version != (before.to_version if before else None):
            problems.append(f"{task}: entry {entry.generation} of the log does not follow the one before")
        if entry.to_version not in known:
            problems.append(f"{task}: entry {entry.generation} of the log names version {entry.to_version}, unknown")
    pointer = (live.version, live.generation) if live else None
    last = (log[-1].to_version, log[-1].generation) if log else None
    if pointer != last:
        problems.append(f"{task}: live (version, generation) is {pointer}, the log ends with {last}")
    elif live and live.version in known:
        version = known[live.version]
        before = before_in([(entry.to_version, entry.verdict) for entry in log])
        if live.previous != before:
            problems.append(f"{task}: a rollback would go to {live.previous}, by the log it should go to {before}")
        if live.content_id != version.content_id:
            problems.append(f"{task}: live is {live.content_id}, version {live.version} is {version.content_id}")
        if version.state != "published":
            problems.append(f"{task}: version {live.version} is live and its artefact was collected")
    return problems


@dataclass(frozen=True)
class Collected:
    """The versions that `collect` removed, or would remove."""

    dry_run: bool
    versions: dict[str, list[int]]  # numbers of the collected versions, by task
    leased: list[str]  # tasks left alone because a run is at work
    removed: list[str]  # folders of the store that were removed
    bytes: int  # size of these folders


def collect(registry: Registry, store: Store, *, keep: int, dry_run: bool = False) -> Collected:
    """Removes the artefacts of old versions, and copies that were never finished.

    Of each task these stay: the live version, the one that a rollback makes live, the one that was live before, and
    the `keep` newest. A leased task is left alone. Versions stay in the registry, marked as collected.
    """
    if keep < 0:
        raise InputError(f"keep: must not be negative, got {keep}")
    tasks = registry.tasks()
    if not tasks:
        return Collected(dry_run, {}, [], [], 0)
    with registry.database.reading() as connection:
        registry.require_store(connection, store)
    chosen: dict[str, list[int]] = {}
    at_work = []
    for task in tasks:
        with registry.database.writing(task) as connection:
            if task in leases.leased(connection, registry.database.time(connection)):
                at_work.append(task)
                continue
            numbers = _disposable(connection, task, keep)
            if numbers:
                chosen[task] = numbers
            if not dry_run:
                these = (tables.versions.c.task == task) & tables.versions.c.number.in_(numbers)
                connection.execute(tables.versions.update().where(these).values(state="collected"))
    removed, freed = [], 0
    with store.reached():
        for folder in _candidates(store):
            with registry.database.writing(STORE) as connection:
                if _needed(connection, folder, chosen if dry_run else {}) or not folder.exists():
                    continue
                removed.append(folder.name)
                freed += sum(file.stat().st_size for file in folder.iterdir())
                if dry_run:
                    continue
                gone = folder.with_name(f".{folder.name.lstrip('.')}.gone")
                folder.rename(gone)
            shutil.rmtree(gone)
    return Collected(dry_run, chosen, at_work, removed, freed)


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


def _artefacts(store: Store) -> list[Path]:
    return sorted(path for path in store.root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _candidates(store: Store) -> list[Path]:
    """Returns folders that may be removed: artefacts, leftovers of a collection, copies unfinished for a day."""
    old = time.time() - FORGOTTEN
    hidden = [path for path in store.root.iterdir() if path.name.startswith(".")]
    left = [path for path in hidden if path.is_dir() and (path.suffix == ".gone" or path.stat().st_mtime < old)]
    return [*left, *_artefacts(store)]


def _needed(connection: Connection, folder: Path, going: dict[str, list[int]]) -> bool:
    """Returns True if a version outside `going` uses the folder, or a publisher may be about to use it."""
    if folder.name.startswith("."):
        return False
    rows = connection.execute(select(tables.versions).where(tables.versions.c.path == folder.name)).all()
    if not rows:
        return folder.stat().st_mtime > time.time() - FORGOTTEN
    return any(row.state == "published" and row.number not in going.get(row.task, ()) for row in rows)


def export(registry: Registry, out: Path) -> dict[str, int]:
    """Writes the rows of all tables, from one instant, as JSON lines; returns the number of lines by table."""
    counts = {}
    lines = []
    with registry.database.reading() as connection:
        for table in tables.metadata.sorted_tables:
            rows = connection.execute(select(table).order_by(*table.primary_key)).all()
            counts[table.name] = len(rows)
            lines += [json.dumps({"table": table.name} | dict(row._mapping), ensure_ascii=False) for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durable(out, "".join(line + "\n" for line in lines).encode())
    return counts
