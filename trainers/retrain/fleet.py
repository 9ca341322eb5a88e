"""The verb over one config or many: processes of this machine, or Ray.

Each task is one run of its own, whoever starts it: a worker that dies takes one task with it, and what
it had done is in the registry. `--all` ends with the worst status of its tasks.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.records import decode
from registry.entries import RegistryError
from registry.verbs import Place
from trainers.config.load import load_config
from trainers.retrain.outcome import OnStep, Options, Outcome
from trainers.retrain.run import retrain

log = logging.getLogger(__name__)

WORST_FIRST = (1, 2, 75, 12, 11, 10, 0)


@dataclass(frozen=True)
class Job:
    """One task to be retrained: everything a process on any machine needs to know."""

    config: str  # script, or name of one that comes with topgraft
    overrides: tuple[str, ...]  # A.B=C
    registry: str  # URL; "" is that of this machine
    store: str  # folder; "" is that of this machine
    options: Options


@dataclass(frozen=True)
class Outcomes:
    """What `--all` returns."""

    exit: int  # the worst
    tasks: tuple[Outcome, ...]  # in the order of the configs

    @property
    def exit_status(self) -> int:
        return self.exit


def attempt(job: Job, on_step: OnStep = lambda step: None) -> Outcome:
    """One task in this process. Whatever goes wrong is an outcome with its status."""
    begun, name = time.monotonic(), Path(job.config).stem
    try:
        config = load_config(job.config, job.overrides)
        name = config.name
        place = Place(job.registry, job.store)
        registry = place.open(create=True)
        try:
            return retrain(config, registry, place.artefacts(), job.options, on_step)
        finally:
            registry.close()
    except InputError as error:
        status, reason = 2, str(error)
    except RegistryError as error:
        status, reason = error.exit_status, str(error)
    except Exception as error:  # the task's own; the others go on
        log.exception("%s", name)
        status, reason = 1, f"{type(error).__name__}: {error}"
    return Outcome(name, "error", status, reason, seconds=round(time.monotonic() - begun, 3))


def retrain_all(jobs: Sequence[Job], *, executor: str = "processes", workers: int = 1) -> Outcomes:
    """Every task, `workers` at a time; raises InputError where Ray is asked for and not there."""
    if workers < 1:
        raise InputError(f"--workers: must be at least 1, got {workers}")
    outcomes = on_ray(jobs, workers) if executor == "ray" else in_processes(jobs, workers)
    return Outcomes(min((o.exit for o in outcomes), key=WORST_FIRST.index, default=0), tuple(outcomes))


def in_processes(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """One process a task; a process that dies without a word is an outcome with status 1."""
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(_in_process, jobs))


def _in_process(job: Job) -> Outcome:
    command = [sys.executable, "-m", "topgraft", "retrain", job.config, *arguments(job), "--json", "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        return decode(Outcome, json.loads(lines[-1]))
    except (IndexError, ValueError):  # an InputError is a ValueError
        return Outcome(Path(job.config).stem, "error", 1, f"the process ended with status {done.returncode}")


def arguments(job: Job) -> list[str]:
    """A job as options of the command line."""
    words = [part for text in job.overrides for part in ("--set", text)]
    words += ["--registry", job.registry, "--store", job.store]
    options = job.options
    words += ["--lease", f"{options.lease_seconds:g}", "--wait", f"{options.wait_seconds:g}"]
    words += ["--dry-run"] if options.dry_run else []
    words += [] if options.promote else ["--no-promote"]
    return words + ([] if options.max_price is None else ["--max-price", f"{options.max_price:g}"])


def on_ray(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """One Ray task a graft, on the cluster that is running or on this machine.

    Ray starts a task again when its worker dies. That is safe: the second one waits for the lease of the first to
    expire, and goes on from what the registry has.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"executor: ray is not there: pip install 'topgraft[ray]' ({error})") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    try:
        task = ray.remote(max_retries=RETRIES, num_cpus=1, max_calls=1)(_on_ray)
        futures = [task.options(name=f"retrain {job.config}").remote(asdict(job)) for job in jobs]
        return [_ray_outcome(job, future) for job, future in zip(jobs, futures, strict=True)]
    finally:
        if ours:
            ray.shutdown()


RETRIES = 3  # of a Ray task whose worker died


def _on_ray(values: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    job = decode(Job, values)
    patience = max(job.options.wait_seconds, 2 * job.options.lease_seconds)
    return asdict(attempt(replace(job, options=replace(job.options, wait_seconds=patience))))


def _ray_outcome(job: Job, future: Any) -> Outcome:
    import ray

    try:
        return decode(Outcome, ray.get(future))
    except ray.exceptions.RayError as error:
        return Outcome(Path(job.config).stem, "error", 1, f"Ray: {type(error).__name__}: {str(error).splitlines()[0]}")
