"""The entries of a registry as data: versions, what is live, promotions, runs, leases. Imports no database.

Times are seconds since 1970 by the clock of the database. A task's *generation* counts its promotions: it is 0 before
the first. A *fence* is the token of a lease. It rises with every owner of the task, so that a writer that has lost its
lease is recognised by its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from backbone.errors import InputError

State = Literal["published", "collected"]
MANUAL, ROLLBACK = "MANUAL", "ROLLBACK"  # verdicts of promotions that no gate decided

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class NoRegistry(InputError):
    """A place without a registry."""


RESTORE = "restore the registry from a copy, or import an export"  # remedy for damaged tables


class RegistryError(Exception):
    """A request that the registry did not carry out."""

    exit_status: ClassVar[int] = 1  # exit status of the console command


class Unavailable(RegistryError):
    """A database or store that cannot be read or written now. Nothing was changed; the same call may work later."""


class Conflict(RegistryError):
    """A change that somebody else made first. The expected state is gone, and nothing was changed."""

    exit_status = 75

    def __init__(self, message: str, *, expected: int, present: int):
        super().__init__(message)
        self.expected = expected  # generation or fence that the caller knew
        self.present = present  # generation or fence in the database


class LeaseHeld(RegistryError):
    """A task that another run has, until it ends or its lease expires."""

    exit_status = 75

    def __init__(self, task: str, owner: str, seconds: float):
        super().__init__(f"{task}: leased by {owner} for another {max(0.0, seconds):.0f} s unless it renews")
        self.task, self.owner = task, owner
        self.seconds = seconds  # until the lease expires


def require_task(task: str) -> str:
    """Returns the name; raises InputError unless it fits in a column, a file name and a URL."""
    if not _NAME.fullmatch(task):
        raise InputError(f"task: {task!r} is no name: letters, digits, '.', '_' and '-', at most 100, a letter first")
    return task


def iso_time(at: float) -> str:
    """Returns a time of an entry as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Version:
    """A graft that was published."""

    task: str
    number: int  # 1, 2, ... for each task
    content_id: str  # content id of the artefact
    weights_id: str  # backbone on which it was grafted
    path: str  # folder of the artefact, relative to the store
    parent: int | None  # number of the version that it was made from
    created_at: float  # time of publication
    metrics: dict[str, Any]  # scores by split, then by metric
    lineage: dict[str, Any]  # data, config and cost of its making
    state: State  # collected: gc removed the artefact


@dataclass(frozen=True)
class Live:
    """The one version of a task that services use."""

    task: str
    version: int  # number of the version
    content_id: str  # content id of its artefact
    generation: int  # promotions of the task so far
    previous: int | None  # number of the version that a rollback makes live


@dataclass(frozen=True)
class LogPosition:
    """The end of the log of all promotions; no two states of any registries share one."""

    registry: str  # random id of the registry; empty with tables of schema 1
    position: int  # promotions of all tasks so far
    entry: str  # random id of the last promotion; empty if there is none


@dataclass(frozen=True)
class Promotion:
    """One entry of the log: at this generation the live version changed."""

    task: str
    generation: int  # 1, 2, ... without gaps
    from_version: int | None  # number of the version live before; None at the first promotion
    to_version: int  # number of the version live after
    actor: str  # person or program that acted
    reason: str  # reason in words
    verdict: str  # verdict of the gate, or MANUAL or ROLLBACK
    gate: dict[str, Any] | None  # report of the gate
    at: float  # time of the promotion


@dataclass(frozen=True)
class Lease:
    """The right to write for a task, until it expires or is released."""

    task: str
    owner: str  # run that has the lease
    token: int  # fence, higher than that of every earlier owner
    expires_at: float  # time of expiry
    seconds: float  # duration from each renewal


@dataclass(frozen=True)
class Run:
    """One attempt to retrain a task."""

    task: str
    run_id: str  # id, unique in the registry
    owner: str  # machine and process
    fence: int | None  # token of its lease
    started_at: float  # time of the start
    finished_at: float | None  # time of the end; None: running, or dead
    outcome: str | None  # outcome in a word
    detail: dict[str, Any]  # decisions and their reasons


@dataclass(frozen=True)
class Measurement:
    """One measured quantity of a version."""

    task: str
    version: int  # number of the version
    name: str  # quantity, with its unit
    value: float | None  # measured value; None: not measured
    quality: str  # quality of the value: measured_counter, modelled, unavailable, ...
    detail: dict[str, Any]  # place and method of the measurement
    at: float  # time of the measurement
