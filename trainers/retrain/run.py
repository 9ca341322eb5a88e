"""One retraining of one task, from fingerprint to promotion; the story of the verb.

    outcome = retrain(config, open_registry(url), Store(path), Options())

Killed at any instant, stopped for longer than its lease, run twice at once: the live version is wholly the
old one or wholly the new one, and the next run goes on from what was finished. Everything that another run
must know is in the registry; the work folder only spares work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

from registry.database import Registry
from registry.entries import Lease, LeaseHeld, require_task
from registry.leases import Heartbeat, heartbeat
from registry.store import Store
from trainers.config import TrainConfig
from trainers.retrain.fingerprint import Taken, take
from trainers.retrain.history import Known, known, settled
from trainers.retrain.outcome import EXIT_STATUS, OnStep, Options, Outcome
from trainers.retrain.steps import Work

log = logging.getLogger(__name__)

ASK_AGAIN = 0.5  # seconds between questions for a lease that another run holds


def retrain(
    config: TrainConfig,
    registry: Registry,
    store: Store,
    options: Options,
    on_step: OnStep = lambda step: None,
) -> Outcome:
    """Retrains a task if it has to be; `on_step` is called before each step, and at the end.

    Raises InputError for bad data, config or a schema violation; LeaseHeld and Conflict where another run has the
    task; Unavailable where registry or store do not answer.
    """
    begun = time.monotonic()
    task = require_task(config.name)
    on_step("fingerprint")
    before = known(registry, task)
    now = take(config, before.fingerprint)
    if nothing := _nothing(registry, task, before, now):
        return nothing
    if options.dry_run:
        work = Work(config, registry, store, options, on_step, before, now, None)
        return replace(work.dry(), seconds=round(time.monotonic() - begun, 3))
    with _leased(registry, task, options) as beat:
        before = known(registry, task)  # another run may have ended meanwhile
        now = take(config, before.fingerprint)
        if nothing := _nothing(registry, task, before, now):
            return nothing
        work = Work(config, registry, store, options, on_step, before, now, beat)
        outcome = replace(work.whole(), seconds=round(time.monotonic() - begun, 3))
    on_step("done")
    return outcome


def _nothing(registry: Registry, task: str, before: Known, now: Taken) -> Outcome | None:
    found = settled(registry, task, before, now)
    if found is None:
        return None
    live = before.live
    return Outcome(
        task=task,
        action="nothing",
        exit=EXIT_STATUS.get(found.verdict, 0),
        reason=found.reason,
        verdict=found.verdict,
        live=live.version if live else None,
        generation=before.generation,
    )


@contextlib.contextmanager
def _leased(registry: Registry, task: str, options: Options) -> Iterator[Heartbeat]:
    """The task's lease while the block runs."""
    owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    until = time.monotonic() + options.wait_seconds
    while True:
        try:
            lease: Lease = registry.acquire(task, owner, options.lease_seconds)
            break
        except LeaseHeld as error:
            left = until - time.monotonic()
            if left <= 0:
                raise
            log.info("%s; waiting", error)
            time.sleep(min(ASK_AGAIN, left))
    with heartbeat(registry, lease) as beat:
        try:
            yield beat
        finally:
            registry.release(beat.lease)
