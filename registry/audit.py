"""The audit of a registry: every artefact is read, and what is live is compared with the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backbone.errors import InputError
from registry import tables
from registry.database import Registry
from registry.log import before_in
from registry.store import USERS, VOLUME, Store


@dataclass(frozen=True)
class StoreAudit:
    """Counts of what `audit` checked."""

    tasks: int
    versions: int  # versions whose artefact was read, every byte
    collected: int  # versions without artefact
    promotions: int
    orphans: list[
        str
    ]  # folders that no version of any registry names, on a disk; gc removes those begun a day ago here


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
        problems += history_problems(task, [row for row in log if row.task == task], live.get(task), known)
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
        mine = registry.change().registry
        folders = _folders(store) if store.collects else []  # an object store does not say who uses it
        orphans = [name for name in folders if name not in named and not _marked(store, name, mine)]
    return StoreAudit(len(tasks), len(published), len(versions) - len(published), len(log), orphans)


def history_problems(task: str, log: list[Any], live: Any, known: dict[int, Any]) -> list[str]:
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


def _folders(store: Store) -> list[str]:
    """Returns the names of the store's folders that might be artefacts."""
    if not store.root.exists():
        return []
    folders = [path.name for path in store.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(set(folders) - {USERS, *VOLUME})


def _marked(store: Store, name: str, mine: str) -> bool:
    """Returns True if a version of another registry than `mine` names the folder, by the marks in the store."""
    return any((folder / name).exists() for folder in (store.root / USERS).glob("*/") if folder.name != mine)
