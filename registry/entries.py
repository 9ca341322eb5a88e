"""What the registry tells, as data: versions, what is live, promotions, runs, leases. Imports no database.

Times are seconds since 1970 by the clock of the database. A task's *generation* counts its promotions:
0 before the first, then one more with each. A *fence* is the token of a lease: it rises with every
owner of the task, so that a writer who lost its lease is known by its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from backbone.errors import InputError

State = Literal["published", "collected"]
MANUAL, ROLLBACK = "MANUAL", "ROLLBACK"  # verdicts of promotions that no gate decided

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RegistryError(Exception):
    """The registry did not do what was asked; `exit_status` is that of the console command."""

    exit_status: ClassVar[int] = 1


class Unavailable(RegistryError):
    """Database or store cannot be reached or written now; nothing was changed, the same call may work later."""


class Conflict(RegistryError):
    """Somebody else was faster: what was expected is no longer so, and nothing was changed."""

    exit_status = 75

    def __init__(self, message: str, *, expected: int, found: int):
        super().__init__(message)
        self.expected = expected  # generation or fence the caller knew
        self.found = found  # and the one in the database


class LeaseHeld(RegistryError):
    """Another run has the task; it ends, or its lease expires."""

    exit_status = 75

    def __init__(self, task: str, owner: str, seconds: float):
        super().__init__(f"{task}: leased by {owner} for another {max(0.0, seconds):.0f} s unless it renews")
        self.task, self.owner = task, owner
        self.seconds = seconds  # until the lease expires


def require_task(task: str) -> str:
    """The name again; raises InputError unless it can be a column's value, a file's name and a URL's part."""
    if not _NAME.fullmatch(task):
        raise InputError(f"task: {task!r} is no name: letters, digits, '.', '_' and '-', at most 100, a letter first")
    return task


@dataclass(frozen=True)
class Version:
    """A graft that was published."""

    task: str  # whose it is
    number: int  # 1, 2, ... per task
    content_id: str  # of the artefact
    weights_id: str  # of the backbone it was grafted on
    path: str  # of the artefact, relative to the store
    parent: int | None  # the version it was made from
    created_at: float  # time of publication
    metrics: dict[str, Any]  # by split, by metric
    lineage: dict[str, Any]  # what it was made from and what that cost
    state: State  # collected: the artefact was removed by gc


@dataclass(frozen=True)
class Live:
    """The one version of a task that services answer with."""

    task: str  # whose it is
    version: int  # its number
    content_id: str  # of its artefact
    generation: int  # promotions of the task so far
    previous: int | None  # the version that a rollback makes live


@dataclass(frozen=True)
class Promotion:
    """One entry of the log: at this generation the live version changed."""

    task: str  # whose live version changed
    generation: int  # 1, 2, ... without gaps
    from_version: int | None  # live before; None at the first
    to_version: int  # live after
    actor: str  # who asked
    reason: str  # in words
    verdict: str  # of the gate, or MANUAL or ROLLBACK
    gate: dict[str, Any] | None  # the gate's report
    at: float  # time


@dataclass(frozen=True)
class Lease:
    """The right to write for a task, until it expires or is released."""

    task: str  # for which task
    owner: str  # who has it
    token: int  # the fence: higher than that of every earlier owner
    expires_at: float  # by the database's clock
    seconds: float  # how long it lasts from each renewal


@dataclass(frozen=True)
class Run:
    """One attempt to retrain a task."""

    task: str  # which task
    run_id: str  # unique in the registry
    owner: str  # who ran it
    fence: int | None  # token of its lease
    started_at: float  # time
    finished_at: float | None  # None: running, or dead
    outcome: str | None  # in a word
    detail: dict[str, Any]  # what it decided and why


@dataclass(frozen=True)
class Measurement:
    """One measured quantity of a version."""

    task: str  # of which task
    version: int  # of which version
    name: str  # of what, with its unit
    value: float | None  # None: not measured
    quality: str  # measured_counter, modelled, unavailable, ...
    detail: dict[str, Any]  # where and how
    at: float  # time
