"""The verb `retrain` over one config or several: in this process, in processes of this machine, or on Ray.

Each task is a run of its own, and a worker that dies ends one task only: its finished steps are in the registry.
`--all` ends with the worst status of its tasks. A child process is this module as a script:

    python -m trainers.retrain.fleet < job.json      # the last line of stdout is the outcome as JSON
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.records import decode, encode
from registry.entries import RegistryError
from trainers.config import TrainConfig
from trainers.retrain.outcome import Job, OnStep, Outcome
from trainers.retrain.run import retrain

log = logging.getLogger(__name__)

WORST_FIRST = (1, 2, 75, 12, 11, 10, 0)
RETRIES = 3  # new attempts of a Ray task whose worker died


@dataclass(frozen=True)
class Outcomes:
    """The result of `--all`."""

    exit: int  # worst status of the tasks
    tasks: tuple[Outcome, ...]  # outcomes in the order of the configs

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command."""
        return self.exit


def attempt(job: Job, on_step: OnStep = lambda step: None) -> Outcome:
    """Retrains one task in this process. Every error becomes an outcome with its exit status."""
    started, name = time.monotonic(), Path(job.config).stem
    try:
        config = job.load(TrainConfig)
        name = config.name
        registry = job.place.open(create=True)
        try:
            return retrain(config, registry, job.place.artefacts(), job.options, on_step)
        finally:
            registry.close()
    except InputError as error:
        status, reason = 2, str(error)
    except RegistryError as error:
        status, reason = error.exit_status, str(error)
    except Exception as error:  # a task's error must not end the other tasks
        log.exception("%s", name)
        status, reason = 1, f"{type(error).__name__}: {error}"
    return Outcome(name, "error", status, reason, seconds=round(time.monotonic() - started, 3))


def reported(outcome: Outcome) -> Outcome:
    """Prints the reason of an error to stderr, and returns the outcome."""
    if outcome.action == "error":
        print(f"topgraft retrain: {outcome.reason}", file=sys.stderr)
    return outcome


def retrain_all(jobs: Sequence[Job], *, executor: str, workers: int) -> Outcomes:
    """Retrains every task, `workers` at a time. Raises InputError if Ray is requested and not installed."""
    if workers < 1:
        raise InputError(f"--workers: must be at least 1, got {workers}")
    outcomes = on_ray(jobs, workers) if executor == "ray" else in_processes(jobs, workers)
    return Outcomes(min((o.exit for o in outcomes), key=WORST_FIRST.index, default=0), tuple(outcomes))


def in_processes(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Runs a process for each task. A process that dies without an outcome gives one with status 1."""
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(_in_process, jobs))


def _in_process(job: Job) -> Outcome:
    quiet = replace(
        job, options=replace(job.options, show=False)
    )  # bars of several processes would overwrite each other
    command = [sys.executable, "-m", "trainers.retrain.fleet"]
    done = subprocess.run(command, input=json.dumps(encode(quiet)), stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        return decode(Outcome, json.loads(lines[-1]))
    except (IndexError, ValueError):  # an InputError is a ValueError
        return Outcome(Path(job.config).stem, "error", 1, f"the process ended with status {done.returncode}")


def _child() -> int:
    """Runs the job on standard input, prints its outcome as JSON, and returns its exit status."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    outcome = reported(attempt(decode(Job, json.load(sys.stdin))))
    print(json.dumps(encode(outcome), ensure_ascii=False))
    return outcome.exit


def on_ray(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Runs a Ray task for each job, on the running cluster or on this machine.

    Ray starts a task again when its worker dies. That is safe: the second run waits until the lease of the first has
    expired, and continues from the state in the registry.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--executor: ray is not installed: pip install 'topgraft[ray]' ({error})") from None
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    try:
        task = ray.remote(max_retries=RETRIES, num_cpus=1, max_calls=1)(_on_ray)
        futures = [task.options(name=f"retrain {job.config}").remote(encode(job)) for job in jobs]
        return [_ray_outcome(job, future) for job, future in zip(jobs, futures, strict=True)]
    finally:
        if started_here:
            ray.shutdown()


def _on_ray(values: Mapping[str, Any]) -> Any:
    """Runs a job given as plain data and returns its outcome likewise.

    The run waits for the lease of a worker that died.
    """
    job = decode(Job, dict(values))
    patience = max(job.options.wait_seconds, 2 * job.options.lease_seconds)
    return encode(attempt(replace(job, options=replace(job.options, wait_seconds=patience))))


def _ray_outcome(job: Job, future: Any) -> Outcome:
    import ray

    try:
        return decode(Outcome, ray.get(future))
    except ray.exceptions.RayError as error:
        return Outcome(Path(job.config).stem, "error", 1, f"Ray: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    sys.exit(_child())
