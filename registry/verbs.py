"""The verb `registry`: what a person asks of it and what it answers. Imports no jax."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.artefact.manifest import Manifest, read_manifest
from backbone.errors import InputError, nearest
from backbone.home import home
from backbone.records import encode
from registry import housekeeping
from registry.database import Registry, open_registry
from registry.entries import MANUAL, Live, Version, require_task
from registry.housekeeping import Collected, StoreAudit
from registry.store import Store


def default_url() -> str:
    """The registry of this machine: a file in the home."""
    return f"sqlite:///{home().absolute() / 'registry.db'}"


def default_store() -> Path:
    """The store of this machine: a folder in the home."""
    return home() / "store"


@dataclass(frozen=True)
class Place:
    """Which registry and which store, as the command line says."""

    registry: str = ""  # URL; "" is that of this machine
    store: str = ""  # folder; "" is that of this machine

    def open(self, *, create: bool = False) -> Registry:
        """The registry; raises InputError if there is none, unless `create`."""
        return open_registry(self.registry or default_url(), create=create)

    def artefacts(self) -> Store:
        """The store."""
        return Store(self.store or default_store())


def whoami() -> str:
    """Who acts, where nobody is named: user@machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def publish(place: Place, graft: str, task: str = "", parent: int | None = None) -> Version:
    """Makes a graft folder the next version of a task; of the task its manifest names, by default."""
    name = task or require_task(read_manifest(Path(graft)).name)
    return place.open(create=True).publish(name, graft, place.artefacts(), parent=parent)


@dataclass(frozen=True)
class Listing:
    """Tasks with what is live, or the versions of one task, newest first."""

    rows: list[dict[str, Any]]

    def table(self) -> str:
        """For people: a line each."""
        if not self.rows:
            return "nothing is published yet"
        cells = [[str(key) for key in self.rows[0]], *([_short(v) for v in row.values()] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def listing(place: Place, task: str = "", *, limit: int = 50, before: int | None = None) -> Listing:
    """All tasks, or a page of a task's versions; raises InputError for a page of none."""
    if limit < 1:
        raise InputError(f"--limit: must be at least 1, got {limit}")
    registry = place.open()
    if not task:
        lives = registry.lives()
        return Listing([_task_row(name, lives.get(name)) for name in registry.tasks()])
    live = registry.live(_known(registry, task))
    return Listing([_version_row(version, live) for version in registry.versions(task, limit, before)])


def _task_row(task: str, live: Live | None) -> dict[str, Any]:
    if live is None:
        return {"task": task, "live": None, "generation": 0, "previous": None, "content_id": None}
    told = {"generation": live.generation, "previous": live.previous, "content_id": live.content_id}
    return {"task": task, "live": live.version, **told}


def _version_row(version: Version, live: Live | None) -> dict[str, Any]:
    return {
        "version": version.number,
        "state": "live" if live and live.version == version.number else version.state,
        "created_at": _when(version.created_at),
        "parent": version.parent,
        "content_id": version.content_id,
    }


def show(place: Place, task: str, number: int | None = None) -> dict[str, Any]:
    """All that is known of a version, by default of the one that is live."""
    registry = place.open()
    live = registry.live(_known(registry, task))
    version = registry.version(task, _number(task, number, live))
    touching = (e for e in registry.promotions(task) if version.number in (e.from_version, e.to_version))
    return {
        **asdict(version),
        "created_at": _when(version.created_at),
        "folder": str(place.artefacts().path(version.content_id)),
        "live": live is not None and live.version == version.number,
        "generation": live.generation if live else 0,
        "measurements": [asdict(m) | {"at": _when(m.at)} for m in registry.measurements(task, version.number)],
        "promotions": [asdict(entry) | {"at": _when(entry.at)} for entry in touching],
    }


@dataclass(frozen=True)
class Difference:
    """What differs between two versions: dotted names with both values."""

    task: str
    one: int  # number of the first version
    other: int  # and of the second
    differs: dict[str, list[Any]]  # [value of one, value of other]; null where it has none


def diff(place: Place, task: str, one: int, other: int | None = None) -> Difference:
    """Compares identity, config, labels, metrics and lineage of a version with another, by default the live one."""
    registry, store = place.open(), place.artefacts()
    pair = [registry.version(_known(registry, task), one)]
    pair.append(registry.version(task, _number(task, other, registry.live(task))))
    left, right = (_facts(version, store) for version in pair)
    names = sorted(left.keys() | right.keys())
    differs = {name: [left.get(name), right.get(name)] for name in names if left.get(name) != right.get(name)}
    return Difference(task, pair[0].number, pair[1].number, differs)


def promote(place: Place, task: str, number: int, *, reason: str, actor: str = "", expected: int | None = None) -> Live:
    """Makes a version live by hand, after its artefact was read, every byte.

    `expected` is the generation the decision was made on; by default the present one.
    """
    registry = place.open()
    live = registry.live(_known(registry, task))
    place.artefacts().verify(registry.version(task, number).content_id)
    generation = (live.generation if live else 0) if expected is None else expected
    return registry.promote(
        task, number, expected_generation=generation, actor=actor or whoami(), reason=reason, verdict=MANUAL
    )


def rollback(place: Place, task: str, *, reason: str, actor: str = "") -> Live:
    """Makes the version before the live one live again, after its artefact was read, every byte."""
    registry = place.open()
    live = registry.live(_known(registry, task))
    if live is not None and live.previous is not None:
        place.artefacts().verify(registry.version(task, live.previous).content_id)
    generation = live.generation if live else None
    return registry.rollback(task, actor=actor or whoami(), reason=reason, expected_generation=generation)


def audit(place: Place) -> StoreAudit:
    """Whether everything is there, whole and consistent; raises InputError that lists what is not."""
    return housekeeping.audit(place.open(), place.artefacts())


def gc(place: Place, *, keep: int = 10, dry_run: bool = False) -> Collected:
    """Removes the artefacts of old versions; see `registry.housekeeping.collect`."""
    return housekeeping.collect(place.open(), place.artefacts(), keep=keep, dry_run=dry_run)


def export(place: Place, out: str) -> dict[str, Any]:
    """Writes the whole registry as JSON lines."""
    return {"file": out, "lines": housekeeping.export(place.open(), Path(out))}


def _known(registry: Registry, task: str) -> str:
    tasks = registry.tasks()
    if task not in tasks:
        raise InputError(f"task: {task!r} has no versions; {nearest(task, tasks)}")
    return task


def _number(task: str, number: int | None, live: Live | None) -> int:
    if number is None and live is None:
        raise InputError(f"{task}: nothing is live; name a version")
    return live.version if number is None and live else number or 0


def _facts(version: Version, store: Store) -> dict[str, Any]:
    told = {"content_id": version.content_id, "weights_id": version.weights_id, "parent": version.parent}
    facts = _dotted(told | {"metrics": version.metrics, "lineage": version.lineage, "state": version.state})
    return facts | (_dotted(_of_manifest(store.verify(version.content_id))) if version.state == "published" else {})


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    known = encode(manifest)
    fields = ("methods", "head", "labels", "max_tokens", "variants")
    training = {name: known["training"][name] for name in ("config", "seeds", "data", "versions")}
    return {name: known[name] for name in fields} | training


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text[:19] + "..." if text.startswith("sha256:") else text
