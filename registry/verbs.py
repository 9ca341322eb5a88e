"""The actions of the verb `registry`, and what each of them returns. Imports no jax."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.artefact.manifest import Manifest, read_manifest
from backbone.console.log_lines import one_line
from backbone.errors import InputError, nearest
from backbone.files import write_named
from backbone.former_names import present_values
from backbone.records import encode
from backbone.remote import local
from registry import audit as auditing
from registry import collect, transfer
from registry.audit import StoreAudit
from registry.budgets.audit import BudgetAudit, audit_budgets
from registry.budgets.budget import Budgets
from registry.budgets.figures import figures_of
from registry.budgets.judge import require_within
from registry.budgets.names import warn_of_unknown
from registry.budgets.page import audit_page
from registry.budgets.propose import propose
from registry.budgets.signers import Signers
from registry.budgets.usage import read_usage
from registry.collect import Collected
from registry.database import Registry
from registry.decisions import require_decided
from registry.entries import MANUAL, Live, Measurement, Promotion, State, Version, iso_time, require_task
from registry.place import Place
from registry.precisions import PrecisionsReport, chosen, precision_verb, require_precision
from registry.store import Store
from registry.tables import SCHEMA
from registry.transfer import RegistryExport, RegistryImport
from registry.upgrade import Upgraded
from registry.users import Uses

log = logging.getLogger(__name__)


def whoami() -> str:
    """Returns the actor where nobody is named: user@machine; a user without a name is `uid` and a number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such entry in /etc/passwd, as in many containers
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class VersionFacts:
    """A `Version` with its time in words."""

    task: str
    number: int
    content_id: str
    weights_id: str
    path: str  # folder of the artefact, relative to the store
    parent: int | None  # number of the version that it was made from
    created_at: str  # time of publication, ISO 8601 in UTC
    metrics: dict[str, Any]
    lineage: dict[str, Any]
    state: State


def publish(
    place: Place, graft: str, task: str = "", parent: int | None = None, signers: Signers | None = None
) -> VersionFacts:
    """Makes a graft folder the next version of a task, by default of the task that its manifest names.

    Raises Unsigned where too few keys of `signers` have signed it.
    """
    graft = str(local(graft))
    (signers or Signers()).require(graft)
    name = task or require_task(read_manifest(Path(graft)).name)
    version = place.open(create=True).publish(name, graft, place.artefacts(), parent=parent)
    return VersionFacts(**vars(version) | {"created_at": iso_time(version.created_at)})


@dataclass(frozen=True)
class TaskRow:
    """A task and its live version."""

    task: str
    live: int | None  # number of the live version
    generation: int  # promotions so far
    previous: int | None  # number of the version that a rollback makes live
    content_id: str | None  # content id of the live version


@dataclass(frozen=True)
class VersionRow:
    """A version of a task."""

    version: int  # number of the version
    state: str  # live, published or collected
    created_at: str  # time of publication, ISO 8601 in UTC
    parent: int | None  # number of the version that it was made from
    content_id: str


@dataclass(frozen=True)
class Listing:
    """Tasks with what is live, or the versions of one task, newest first."""

    rows: Sequence[TaskRow | VersionRow]

    def table(self) -> str:
        """Returns a line for each row, in columns."""
        if not self.rows:
            return "nothing is published yet"
        records = [asdict(row) for row in self.rows]
        cells = [list(records[0]), *([_short(value) for value in record.values()] for record in records)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def listing(place: Place, task: str = "", *, limit: int, before: int | None = None) -> Listing:
    """Returns all tasks, or a page of `limit` versions of one task; raises InputError for an empty page."""
    if limit < 1:
        raise InputError(f"--limit: must be at least 1, got {limit}")
    registry = place.open()
    if not task:
        lives = registry.lives()
        return Listing([_task_row(name, lives.get(name)) for name in registry.tasks()])
    live = registry.live(_known(registry, task))
    return Listing([_version_row(version, live) for version in registry.versions(task, limit, before)])


def _task_row(task: str, live: Live | None) -> TaskRow:
    if live is None:
        return TaskRow(task, live=None, generation=0, previous=None, content_id=None)
    return TaskRow(task, live.version, live.generation, live.previous, live.content_id)


def _version_row(version: Version, live: Live | None) -> VersionRow:
    return VersionRow(
        version=version.number,
        state="live" if live and live.version == version.number else version.state,
        created_at=iso_time(version.created_at),
        parent=version.parent,
        content_id=version.content_id,
    )


@dataclass(frozen=True)
class MeasurementRow:
    """A `Measurement` with its time in words."""

    task: str
    version: int
    name: str
    value: float | None
    quality: str
    detail: dict[str, Any]
    at: str  # time, ISO 8601 in UTC


@dataclass(frozen=True)
class PromotionRow:
    """A `Promotion` with its time in words."""

    task: str
    generation: int
    from_version: int | None
    to_version: int
    actor: str
    reason: str
    verdict: str
    gate: dict[str, Any] | None
    at: str  # time, ISO 8601 in UTC


@dataclass(frozen=True)
class VersionReport(VersionFacts):
    """Everything that the registry knows of a version."""

    folder: str  # folder of the artefact
    live: bool  # this version is the live one
    generation: int  # promotions of the task so far
    measurements: list[MeasurementRow]
    promotions: list[PromotionRow]  # those from or to this version


def show(place: Place, task: str, number: int | None = None) -> VersionReport:
    """Returns everything that is known of a version, by default of the live one."""
    registry = place.open()
    live = registry.live(_known(registry, task))
    version = registry.version(task, _number(task, number, live))
    return VersionReport(
        **vars(version) | {"created_at": iso_time(version.created_at)},
        folder=str(place.artefacts().path(version.content_id)),
        live=live is not None and live.version == version.number,
        generation=live.generation if live else 0,
        measurements=[_measurement_row(entry) for entry in registry.measurements(task, version.number)],
        promotions=[
            _promotion_row(entry)
            for entry in registry.promotions(task)
            if version.number in (entry.from_version, entry.to_version)
        ],
    )


def _measurement_row(entry: Measurement) -> MeasurementRow:
    return MeasurementRow(**vars(entry) | {"at": iso_time(entry.at)})


def _promotion_row(entry: Promotion) -> PromotionRow:
    return PromotionRow(**vars(entry) | {"at": iso_time(entry.at)})


@dataclass(frozen=True)
class Difference:
    """The differences between two versions: dotted names with both values."""

    task: str
    one: int  # number of the first version
    other: int  # number of the second version
    differs: dict[str, list[Any]]  # [value of the first, value of the second]; null where a version has none


def diff(place: Place, task: str, one: int, other: int | None = None) -> Difference:
    """Compares a version with another, by default the live one.

    Identity, config, labels, metrics and lineage are compared.
    """
    registry, store = place.open(), place.artefacts()
    pair = [registry.version(_known(registry, task), one)]
    pair.append(registry.version(task, _number(task, other, registry.live(task))))
    left, right = (_facts(version, store) for version in pair)
    names = sorted(left.keys() | right.keys())
    differs = {name: [left.get(name), right.get(name)] for name in names if not _same(name, left, right)}
    return Difference(task, pair[0].number, pair[1].number, differs)


def promote(
    place: Place,
    task: str,
    number: int,
    *,
    reason: str,
    actor: str = "",
    expected: int | None = None,
    budgets: Budgets | None = None,
) -> Live:
    """Makes a version live by hand, after reading every byte of its artefact.

    `expected` is the generation on which the decision was made; by default it is the present one. Raises OverBudget for
    a version that breaks its task's budget, NoFigure where the budget bounds what nobody measured, and Undecided for
    one whose config requires a decision about a search. Raises InputError for a graft in another precision than the
    registry records. A rollback asks nothing: it must always be possible.
    """
    registry = place.open()
    live = registry.live(_known(registry, task))
    version = registry.version(task, number)
    store = place.artefacts()
    manifest = store.verify(version.content_id)
    if budgets is not None:
        warn_of_unknown(budgets, registry.tasks())
        budgets.signers.require(store.path(version.content_id))
    require_decided(registry, task, manifest.training.config)
    require_precision(chosen(registry), manifest, task)
    if budgets is not None and (budget := budgets.of(task)):
        require_within(budget, number, figures_of(version, registry.measurements(task, number), manifest))
    generation = (live.generation if live else 0) if expected is None else expected
    return registry.promote(
        task, number, expected_generation=generation, actor=actor or whoami(), reason=reason, verdict=MANUAL
    )


def rollback(place: Place, task: str, *, reason: str, actor: str = "") -> Live:
    """Makes the version before the live one live again, after reading every byte of its artefact."""
    registry = place.open()
    live = registry.live(_known(registry, task))
    if live is not None and live.previous is not None:
        place.artefacts().verify(registry.version(task, live.previous).content_id)
    generation = live.generation if live else None
    return registry.rollback(task, actor=actor or whoami(), reason=reason, expected_generation=generation)


def audit(place: Place) -> StoreAudit:
    """Checks that everything is present, whole and consistent; raises InputError that lists the problems."""
    return auditing.audit(place.open(), place.artefacts())


def audit_of_budgets(
    place: Place,
    budgets: Budgets,
    *,
    days: float,
    html: str = "",
    proposal: str = "",
    slack: float = 0.0,
    usage: tuple[str, ...] = (),
) -> BudgetAudit:
    """Judges every version by its team's budgets.

    `html` names a page to write; `proposal` a new file of budgets, made from what is live with `slack` of room.
    `usage` are files of servers. Raises InputError for one that is none.
    """
    noted = read_usage(usage)
    registry, store = place.open(), place.artefacts()
    warn_of_unknown(budgets, registry.tasks())
    result = audit_budgets(registry, budgets, store, days=days, usage=noted)
    if html:
        write_named("--html", Path(html), audit_page(result, iso_time(time.time())))
        log.info("--html: %s: the page of this audit", html)
    if proposal:
        propose(registry, store, Path(proposal), slack, budgets)
    return result


def gc(place: Place, *, keep: int, dry_run: bool = False, moved: bool = False) -> Collected:
    """Removes the artefacts of old versions; see `registry.collect`."""
    if not place.artefacts().collects:
        raise InputError(f"gc: {place.store} is on an object store, which nothing is removed from; set a rule there")
    return collect.collect(place.open(), place.artefacts(), keep=keep, dry_run=dry_run, moved=moved)


def precision(place: Place, backbone: str, *, choice: str, actor: str, reason: str) -> PrecisionsReport:
    """Shows the precisions that the registry records; a `choice` for a backbone is recorded first."""
    return precision_verb(place.open(), backbone, choice=choice, actor=actor or whoami(), reason=reason)


def export(place: Place, out: str) -> RegistryExport:
    """Writes the whole registry as JSON lines."""
    return RegistryExport(out, transfer.export(place.open(), Path(out)))


def import_(place: Place, file: str) -> RegistryImport:
    """Makes a registry of the JSON lines that `export` wrote."""
    rows = transfer.read(Path(file))
    registry = place.open(create=True)
    return RegistryImport(file, registry.database.where, transfer.bring_in(registry, rows))


def upgrade(place: Place) -> Upgraded:
    """Brings tables of a former version forward, in one transaction, and tells the store what the registry names."""
    registry, store = place.open(), place.artefacts()
    with registry.database.reading() as connection:
        published = registry.require_store(connection, store)
    before = registry.database.upgrade()
    if published:
        uses = Uses(store, registry.change().registry)
        collect.require_original(registry, uses)
        collect.mark(registry, uses)
    return Upgraded(registry.database.where, before, SCHEMA)


def _known(registry: Registry, task: str) -> str:
    """Returns the task; raises InputError with the nearest names if it has no versions."""
    tasks = registry.tasks()
    if task not in tasks:
        raise InputError(f"task: {task!r} has no versions; {nearest(task, tasks)}")
    return task


def _number(task: str, number: int | None, live: Live | None) -> int:
    """Returns the number of a version, by default of the live one; raises InputError if nothing is live."""
    if number is None and live is None:
        raise InputError(f"{task}: nothing is live; name a version")
    return live.version if number is None and live else number or 0


def _facts(version: Version, store: Store) -> dict[str, Any]:
    """Returns what `diff` compares, by dotted name."""
    facts = {
        "content_id": version.content_id,
        "weights_id": version.weights_id,
        "parent": version.parent,
        "metrics": version.metrics,
        "lineage": version.lineage,
        "state": version.state,
    }
    if version.state == "published":
        facts |= _of_manifest(store.verify(version.content_id))
    return _dotted(facts)


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    values = encode(manifest)
    fields = ("methods", "head", "labels", "max_tokens", "variants")
    training = {name: values["training"][name] for name in ("config", "seeds", "data", "versions")}
    return {name: values[name] for name in fields} | training | {"config": present_values(training["config"])}


def _same(name: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Returns whether a fact is the same; a field of the config that a former version lacks is, while it is empty."""
    if name.startswith("config.") and (name not in left or name not in right):
        return not (left.get(name) or right.get(name))
    return bool(left.get(name) == right.get(name))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested tables: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    """Returns a cell of a table; a content id is cut."""
    text = "-" if value is None else one_line(str(value))
    return text[:19] + "..." if text.startswith("sha256:") else text
