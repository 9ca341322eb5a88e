"""One retraining of one task, from fingerprint to promotion.

    outcome = retrain(config, open_registry(url), Store(path), Options())

A run may be killed at any instant, be stopped for longer than its lease, or run twice at once. In each case the live
version is wholly the old one or wholly the new one. The next run continues after the last finished step. The registry
holds everything that another run must know; the work folder only saves work.
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

from backbone.errors import InputError
from backbone.home import stored_ids
from backbone.precisions.record import choice_of, record
from metering.window import cpu_seconds
from registry.budgets.budget import Budget
from registry.budgets.signers import Signers
from registry.database import Registry
from registry.entries import Lease, LeaseHeld, require_task
from registry.leases import Heartbeat, heartbeat
from registry.precisions import adopt, chosen
from registry.store import Store
from trainers.config import TrainConfig
from trainers.retrain.fingerprint import Taken, keeping, take
from trainers.retrain.history import Known, known, settled
from trainers.retrain.outcome import EXIT_STATUS, OnStep, Options, Outcome
from trainers.retrain.steps import Work
from trainers.retrain.workspace import remove_abandoned, work_folders

log = logging.getLogger(__name__)

ASK_AGAIN = 0.5  # seconds between two requests for a lease that another run has


def retrain(
    config: TrainConfig,
    registry: Registry,
    store: Store,
    options: Options,
    on_step: OnStep = lambda step: None,
    now: Taken | None = None,
    budget: Budget | None = None,
    signers: Signers | None = None,
    cpu_before: float | None = None,
) -> Outcome:
    """Retrains a task if anything changed; calls `on_step` before each step, and at the end.

    `now` is the fingerprint, if the caller has taken it already. The gate checks the limits of `budget` too, and
    `signers` are the keys that must have signed what is promoted. `cpu_before` are the CPU seconds of the process that
    are not the verb's, by default all so far.

    Raises InputError for bad data, a bad config or a schema violation. Raises LeaseHeld or Conflict if another run has
    the task, and Unavailable if the registry or the store does not answer.
    """
    started, cpu_before = time.monotonic(), cpu_seconds() if cpu_before is None else cpu_before
    task = require_task(config.name)
    on_step("fingerprint")
    given, config = config, in_fleet(config, registry)
    before = known(registry, task)
    kept = keeping(config, before.fingerprint)
    limits = budget or Budget(task)
    now = (now or take(kept, before.fingerprint, before.keys)).judged_by(limits.key)
    if nothing := _nothing(registry, task, before, now, options):
        return nothing
    from adapters.machine import require_known_answers  # a run with nothing to do needs none of it

    require_known_answers()
    if options.dry_run:
        work = Work(now.config, registry, store, options, on_step, before, now, None, limits, signers or Signers())
        return replace(work.dry(), seconds=round(time.monotonic() - started, 3))
    with _leased(registry, task, options) as beat:
        config = in_fleet(given, registry, beat.lease.owner)
        before = known(registry, task)  # another run may have ended meanwhile
        kept = keeping(config, before.fingerprint)
        now = take(kept, before.fingerprint, before.keys).judged_by(limits.key)
        if nothing := _nothing(registry, task, before, now, options):
            return nothing
        work = Work(
            now.config, registry, store, options, on_step, before, now, beat, limits, signers or Signers(), cpu_before
        )
        outcome = replace(work.whole(), seconds=round(time.monotonic() - started, 3))
    on_step("done")
    return outcome


def in_fleet(config: TrainConfig, registry: Registry, actor: str = "") -> TrainConfig:
    """Returns the config in the precision that the registry records for its trunk, if it records one.

    With an `actor`, this machine's choice becomes the record where there is none. A machine without a choice takes over
    the record, for `train`. Raises InputError for a config that names another precision.
    """
    base_id, _ = stored_ids(config.backbone)
    recorded, here = chosen(registry).get(base_id), choice_of(base_id)
    if recorded is None and here is not None and actor and not config.precision:
        recorded = adopt(registry, here, actor=actor)
    if recorded is None:
        return config
    if config.precision not in ("", recorded.precision):
        raise InputError(
            f"precision: the config names {config.precision}, and the registry records {recorded.precision} for this "
            f"trunk ({recorded.actor}: {recorded.reason}); leave it out, or change the record with `topgraft registry "
            "precision`"
        )
    if actor and (here is None or here.registry):
        reason = f"{recorded.reason} (the registry's)"
        here = record(base_id, recorded.precision, reason, registry=registry.change().registry)
    if here is not None and not here.registry and here.precision != recorded.precision:
        log.warning("precision: %s, as the registry records it; this machine: %s", recorded.precision, here.precision)
    return replace(config, precision=recorded.precision)


def _nothing(registry: Registry, task: str, before: Known, now: Taken, options: Options) -> Outcome | None:
    """Returns the outcome of a run that has nothing to do; None if there may be something.

    Work folders of interrupted runs are removed then, since nobody will go on with them.
    """
    state = settled(registry, task, before, now)
    if state is None:
        return None
    if not options.dry_run:
        remove_abandoned(work_folders(task))
    live = before.live
    return Outcome(
        task=task,
        action="nothing",
        exit=EXIT_STATUS.get(state.verdict, 0),
        reason=state.reason,
        verdict=state.verdict,
        live=live.version if live else None,
        generation=before.generation,
    )


@contextlib.contextmanager
def _leased(registry: Registry, task: str, options: Options) -> Iterator[Heartbeat]:
    """Holds the task's lease while the block runs, and yields its heartbeat."""
    owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    deadline = time.monotonic() + options.wait_seconds
    while True:
        try:
            lease: Lease = registry.acquire(task, owner, options.lease_seconds)
            break
        except LeaseHeld as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            log.info("%s; waiting", error)
            time.sleep(min(ASK_AGAIN, left))
    with heartbeat(registry, lease) as beat:
        try:
            yield beat
        finally:
            registry.release(beat.lease)
