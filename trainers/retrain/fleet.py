"""The verb `retrain` over several configs: in processes of this machine, or on Ray.

Each task is a run of its own, and a worker that dies ends one task only: its finished steps are in the registry.
`--all` ends with the worst status of its tasks. A file that is no task is skipped with a word, and one that cannot be
read is an error of its own; neither ends the others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbone.console.log_lines import one_line
from backbone.errors import InputError
from backbone.records import decode, encode
from trainers.retrain.attempt import attempt, reported
from trainers.retrain.configs import Reading, read_configs
from trainers.retrain.outcome import Job, Outcome
from trainers.retrain.workers import in_processes
from trainers.runs.cluster import Here, connected, here

log = logging.getLogger(__name__)

WORST_FIRST = (1, 2, 75, 12, 11, 10, 0)
RETRIES = 3  # new attempts of a Ray task whose worker died


@dataclass(frozen=True)
class Outcomes:
    """The result of `--all`."""

    exit: int  # worst status of the tasks
    tasks: tuple[Outcome, ...]  # outcomes in the order of the configs

    def table(self) -> str:
        """Returns a line for each config, for people; `--json` holds the rest."""
        name, action = (max((len(text) for text in texts), default=0) for texts in self._columns())
        lines = [f"{o.task:<{name}}  {o.action:<{action}}  {o.exit:>2}  {one_line(o.reason)}" for o in self.tasks]
        return "\n".join([*lines, f"status {self.exit}, the worst of {len(self.tasks)}"])

    def _columns(self) -> tuple[list[str], list[str]]:
        return [o.task for o in self.tasks], [o.action for o in self.tasks]

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command."""
        return self.exit


def retrain_all(jobs: Sequence[Job], *, executor: str, workers: int) -> Outcomes:
    """Retrains every task, `workers` at a time.

    Raises InputError before anything runs if two configs are one task, or if Ray is requested and not installed.
    """
    if workers < 1:
        raise InputError(f"--workers: must be at least 1, got {workers}")
    readings = read_configs(jobs)
    tasks = [job for job, reading in zip(jobs, readings, strict=True) if reading.task]
    alone = [reading.alone for reading in readings if reading.task]
    done = iter(on_ray(tasks, workers) if executor == "ray" else in_processes(tasks, alone, workers))
    outcomes = [
        next(done) if reading.task else _without_task(job, reading) for job, reading in zip(jobs, readings, strict=True)
    ]
    return Outcomes(min((o.exit for o in outcomes), key=WORST_FIRST.index, default=0), tuple(outcomes))


def _without_task(job: Job, reading: Reading) -> Outcome:
    """Reports a config that is no task or cannot be read, and returns its outcome."""
    name = Path(job.config).stem
    if reading.error:
        return reported(Outcome(name, "error", 2, reading.error))
    log.info("skipped: %s", reading.skipped)
    return Outcome(name, "skipped", 0, reading.skipped)


def on_ray(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Runs a Ray task for each job, `workers` at a time, on a running cluster or on this machine.

    Ray starts a task again when its worker dies. That is safe: the second run waits until the lease of the first has
    expired, and continues from the state in the registry.
    """
    with connected(workers) as ray:
        task = ray.remote(max_retries=RETRIES, num_cpus=1, max_calls=1)(_on_ray)
        surroundings = encode(here())

        def outcome(job: Job) -> Outcome:
            named = task.options(name=f"retrain {job.config}")
            return _ray_outcome(job, named.remote(encode(job), surroundings))

        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(outcome, jobs))


def _on_ray(values: Mapping[str, Any], surroundings: Mapping[str, Any]) -> Any:
    """Runs a job given as plain data and returns its outcome likewise.

    The run waits for the lease of a worker that died.
    """
    job = decode(Job, dict(values))
    try:
        decode(Here, dict(surroundings)).enter()
    except InputError as error:
        return encode(Outcome(Path(job.config).stem, "error", 1, str(error)))
    patience = max(job.options.wait_seconds, 2 * job.options.lease_seconds)
    return encode(attempt(replace(job, options=replace(job.options, wait_seconds=patience))))


def _ray_outcome(job: Job, future: Any) -> Outcome:
    import ray

    try:
        return decode(Outcome, ray.get(future))
    except ray.exceptions.RayError as error:
        return Outcome(Path(job.config).stem, "error", 1, f"Ray: {type(error).__name__}: {str(error).splitlines()[0]}")
