"""The precision of each trunk of a fleet, as its registry records it: who or what chose it, on which rows, and when.

Machines that share a registry train, retrain and serve one trunk. A choice is never changed: a later one is added, and
counts from then on. Without any choice the record of the machine counts (`backbone.precisions.record`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Row, select

from adapters.artefact.manifest import Manifest
from backbone.errors import InputError
from backbone.home import stored_ids
from backbone.precisions.precision import precision_named, precision_of
from backbone.precisions.record import CalibrationRows, Choice, Measured, choice_of
from backbone.records import decode, encode
from registry import rows, tables

if TYPE_CHECKING:
    from registry.database import Registry

PRECISIONS = 4  # schema from which on there are precisions of trunks
LOCK = "precisions"  # lock of processes that choose a precision


@dataclass(frozen=True)
class Figures:
    """The measurements that a choice rests on."""

    measured: tuple[Measured, ...] = ()  # each precision beside float32
    calibration: CalibrationRows | None = None  # rows of the scores; None: made-up rows, or nothing was measured
    score: float | None = None  # accuracy of a probe on these rows in the precision; None: no score was needed
    float32_score: float | None = None  # accuracy of the same probe in float32


@dataclass(frozen=True)
class TrunkPrecision:
    """A choice of the precision of a trunk."""

    weights_id: str  # identity of the float32 weights
    number: int  # 1, 2, ... for each trunk
    precision: str
    actor: str  # person or machine that chose
    reason: str  # reason in words
    figures: Figures = field(default_factory=Figures)
    at: float = 0.0  # time of the choice, seconds since 1970


def figures_of(choice: Choice) -> Figures:
    """Returns the measurements of a machine's choice, with the scores of the chosen precision and of float32."""
    chosen = next((one for one in choice.measured if one.precision == choice.precision), None)
    scored = next((one for one in (chosen, *choice.measured) if one and one.score is not None), None)
    float32 = None if scored is None else round((scored.score or 0.0) + (scored.lost or 0.0), 5)
    score = float32 if chosen is None else chosen.score
    return Figures(choice.measured, choice.calibration, score, float32)


def choose(
    registry: Registry, base_id: str, precision: str, *, actor: str, reason: str, figures: Figures | None = None
) -> TrunkPrecision:
    """Records the precision of the trunk with the float32 weights `base_id` from now on.

    Raises InputError for an unknown precision.
    """
    precision_named(precision, "--choose")
    with registry.database.writing(LOCK) as connection:
        known = _last(connection).get(base_id)
        return _add(registry, connection, base_id, known, precision, actor, reason, figures or Figures())


def choose_as_here(registry: Registry, base_id: str, *, actor: str) -> TrunkPrecision:
    """Records what this machine has chosen for a trunk, with its figures; raises InputError where it has not."""
    choice = choice_of(base_id)
    if choice is None:
        raise InputError(f"{base_id[:19]}...: nothing is chosen on this machine; `topgraft precision --choose` does it")
    return choose(registry, base_id, choice.precision, actor=actor, reason=choice.reason, figures=figures_of(choice))


def adopt(registry: Registry, choice: Choice, *, actor: str) -> TrunkPrecision | None:
    """Records the choice of a machine where the registry has none, and returns the one that counts.

    Returns None, and records nothing, where a live version of this trunk has another precision: its task would be
    trained anew, and nobody has asked for that.
    """
    with registry.database.writing(LOCK) as connection:
        if (known := _last(connection).get(choice.weights_id)) is not None:
            return known
        if _live_precisions(connection, choice.weights_id) - {choice.precision}:
            return None
        values = (choice.weights_id, None, choice.precision, actor, choice.reason, figures_of(choice))
        return _add(registry, connection, *values)


def _add(
    registry: Registry,
    connection: Connection,
    base_id: str,
    before: TrunkPrecision | None,
    precision: str,
    actor: str,
    reason: str,
    figures: Figures,
) -> TrunkPrecision:
    now = registry.database.time(connection)
    made = TrunkPrecision(base_id, before.number + 1 if before else 1, precision, actor, reason, figures, now)
    values = vars(made) | {"figures": rows.plain(encode(figures), "figures")}
    connection.execute(tables.precisions.insert().values(**values))
    return made


def chosen(registry: Registry) -> Mapping[str, TrunkPrecision]:
    """Returns the choice that counts for each trunk, by the identity of its float32 weights."""
    with registry.database.reading() as connection:
        return _last(connection) if registry.database.look(connection) >= PRECISIONS else {}


def history(registry: Registry, base_id: str) -> list[TrunkPrecision]:
    """Returns all choices for a trunk, oldest first."""
    with registry.database.reading() as connection:
        known = registry.database.look(connection) >= PRECISIONS
        return [one for one in _all(connection) if one.weights_id == base_id] if known else []


def _all(connection: Connection) -> list[TrunkPrecision]:
    ordered = select(tables.precisions).order_by(tables.precisions.c.weights_id, tables.precisions.c.number)
    return [_choice(row) for row in connection.execute(ordered)]


def _last(connection: Connection) -> dict[str, TrunkPrecision]:
    return {one.weights_id: one for one in _all(connection)}


def _live_precisions(connection: Connection, base_id: str) -> set[str]:
    """Returns the precisions in which the live versions on a trunk were trained."""
    versions, live = tables.versions.c, tables.live.c
    of_live = (versions.task == live.task) & (versions.number == live.version)
    trained = connection.execute(select(versions.weights_id).where(of_live).distinct()).scalars()
    return {tag for weights_id in trained if (tag := precision_of(base_id, weights_id))}


def _choice(row: Row[tuple[object, ...]]) -> TrunkPrecision:
    values = dict(row._mapping)
    figures = decode(Figures, values.pop("figures"), f"precisions of {row.weights_id[:19]}..., number {row.number}")
    return TrunkPrecision(**values, figures=figures)


def require_precision(choices: Mapping[str, TrunkPrecision], manifest: Manifest, task: str) -> None:
    """Raises InputError for a graft of a trunk whose recorded precision it was neither trained nor validated in."""
    for one in choices.values():
        trained = precision_of(one.weights_id, manifest.weights_id)
        if trained is not None and one.precision not in (trained, *manifest.variants):
            raise InputError(
                f"{task}: the graft is in {trained}, and not validated in {one.precision}, which this registry records "
                f"for the trunk {one.weights_id[:19]}... ({one.actor}: {one.reason}); train it with --set "
                f"precision={one.precision}, or change the record with `topgraft registry precision`"
            )


def require_recorded(connection: Connection, manifest: Manifest, task: str) -> None:
    """Raises InputError as `require_precision` does, by the choices that a transaction sees; tables must be present."""
    require_precision(_last(connection), manifest, task)


@dataclass(frozen=True)
class TrunkReport:
    """A trunk of a registry, and what does not fit its precision."""

    choice: TrunkPrecision
    choices: int  # choices so far
    others: tuple[str, ...]  # tasks whose live version was trained in another precision


@dataclass(frozen=True)
class PrecisionsReport:
    """The precisions that a registry records; `registry precision` prints it."""

    trunks: tuple[TrunkReport, ...]

    def table(self) -> str:
        """Returns a line for each trunk, and one for the tasks of another precision."""
        lines = []
        for trunk in self.trunks:
            one, scores = trunk.choice, trunk.choice.figures
            lines.append(f"{one.weights_id[:19]}...  {one.precision}  {one.actor}: {one.reason}")
            if scores.score is not None and scores.calibration is not None:
                where = f"{scores.calibration.rows} rows of {scores.calibration.config}"
                lines.append(f"  a probe on {where}: {scores.score:.4f}, in float32 {scores.float32_score:.4f}")
            if trunk.others:
                lines.append(f"  live in another precision, to be retrained: {', '.join(trunk.others)}")
        return "\n".join(lines) or "nothing is chosen: each machine's own record counts"


def report(registry: Registry, base_id: str = "") -> PrecisionsReport:
    """Returns the precisions of all trunks, or of the one with the float32 weights `base_id`."""
    lives = registry.lives()
    trained = {task: registry.version(task, live.version).weights_id for task, live in lives.items()}
    trunks = []
    for one in chosen(registry).values():
        if base_id not in ("", one.weights_id):
            continue
        precisions = {task: precision_of(one.weights_id, weights_id) for task, weights_id in trained.items()}
        others = tuple(task for task, tag in precisions.items() if tag not in (None, one.precision))
        trunks.append(TrunkReport(one, len(history(registry, one.weights_id)), others))
    return PrecisionsReport(tuple(trunks))


def precision_verb(
    registry: Registry, backbone: str, *, choice: str = "", actor: str = "", reason: str = ""
) -> PrecisionsReport:
    """Shows the recorded precisions, after recording `choice` for a backbone where there is one."""
    base_id = stored_ids(backbone)[0] if backbone else ""
    if choice:
        choose(registry, base_id, choice, actor=actor, reason=reason)
    return report(registry, base_id)
