"""The registry's record of a task, which may show that there is nothing to do. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError
from backbone.records import decode
from registry.database import Registry
from registry.entries import MANUAL, ROLLBACK, Live, Run, Version
from trainers.retrain.fingerprint import Fingerprint, Taken

LOOK_BACK = 200  # newest versions, and runs that came to a verdict, that are looked through
NOTHING_DONE = ("refused", "invalid", "unjudged")  # outcomes of runs that trained and judged nothing
CHECKED = "checked"  # outcome of a run that found nothing wrong with held-out rows, which alone had changed


@dataclass(frozen=True)
class Known:
    """The state of a task in the registry."""

    live: Live | None
    version: Version | None  # live version, whole
    fingerprint: Fingerprint | None  # fingerprint of the live version; None: it was not made by a retraining
    runs: list[Run]  # runs of the task that did something, newest first

    @property
    def trainings(self) -> list[Run]:
        """Returns the runs that trained, newest first."""
        return [run for run in self.runs if run.detail.get("trains")]

    @property
    def keys(self) -> set[tuple[int, str]]:
        """Returns the scheme and the key of every training that a run had judged."""
        return {(run.detail.get("scheme", 1), run.detail.get("key", "")) for run in self.runs}

    @property
    def generation(self) -> int:
        return self.live.generation if self.live else 0


@dataclass(frozen=True)
class Settled:
    """A task with nothing to do."""

    reason: str
    verdict: str  # verdict of the gate that stands; "" without one


def known(registry: Registry, task: str) -> Known:
    """Reads the state of a task."""
    live = registry.live(task)
    version = registry.version(task, live.version) if live else None
    return Known(live, version, fingerprint_of(version), registry.runs(task, LOOK_BACK, but=NOTHING_DONE))


def fingerprint_of(version: Version | None) -> Fingerprint | None:
    """Returns the fingerprint of a version; None unless a retraining of this layout made it."""
    values: Any = version.lineage.get("fingerprint") if version else None
    try:
        return decode(Fingerprint, values) if values else None
    except InputError:
        return None


def _judged(run: Run, now: Fingerprint, generation: int) -> bool:
    """Returns whether a run judged what there is now: training, gate, its rows, and the live version."""
    detail, rows = run.detail, now.rows.get("gate", "")
    before = (detail.get("key"), detail.get("gate"), detail.get("generation"))
    return before == (now.key, now.gate, generation) and detail.get("gate_rows", rows) == rows


def _judged_by(before: Known, now: Taken) -> set[str]:
    """Returns the fingerprints of the held-out rows that judged the live version, if training would give it again."""
    judges = set()
    if before.fingerprint is not None and now.gives(before.fingerprint):
        judges.add(before.fingerprint.rows.get("gate", ""))
    for run in before.runs:
        like_it = now.in_scheme(run.detail.get("scheme", 1))
        made_live = before.live is not None and run.detail.get("version") == before.live.version
        if run.outcome == "promoted" and made_live and run.detail.get("key") == like_it.key:
            judges.add(run.detail.get("gate_rows", like_it.rows.get("gate", "")))
    return judges


def only_held_out_changed(before: Known, now: Taken) -> bool:
    """Returns whether training would give the live version again, while other rows than its would judge it."""
    return _held_out_changed(_judged_by(before, now), now)


def _held_out_changed(judged_by: set[str], now: Taken) -> bool:
    return bool(judged_by) and now.fingerprint.rows.get("gate", "") not in judged_by


def candidate_of(registry: Registry, task: str, now: Taken) -> Version | None:
    """Returns the newest version with the present fingerprint, if there is one."""
    for version in registry.versions(task, LOOK_BACK):
        made_from = fingerprint_of(version)
        if version.state == "published" and made_from is not None and now.gives(made_from):
            return version
    return None


def settled(registry: Registry, task: str, before: Known, now: Taken) -> Settled | None:
    """Returns why there is nothing to do; None if there may be something."""
    judged_by = _judged_by(before, now)
    held_out = _held_out_changed(judged_by, now)
    if judged_by and not held_out:
        return Settled("nothing changed since the live version was made", "")
    for run in before.runs:
        like_it = now.in_scheme(run.detail.get("scheme", 1))
        if run.outcome in ("FAIL", "NO_EVIDENCE") and _judged(run, like_it, before.generation):
            why = f": {run.detail['reason']}" if run.detail.get("reason") else ""
            return Settled(f"nothing changed since the gate said {run.outcome}{why}", run.outcome)
        if held_out and run.outcome == CHECKED and _judged(run, like_it, before.generation):
            return Settled("nothing changed since the held-out rows were checked", "")
    candidate = candidate_of(registry, task, now)
    if candidate is not None:
        left = [entry for entry in registry.promotions(task) if entry.from_version == candidate.number]
        if left and left[-1].verdict in (ROLLBACK, MANUAL):
            return Settled(
                f"version {candidate.number}, made from what there is now, was replaced by hand: {left[-1].reason}", ""
            )
    return None
