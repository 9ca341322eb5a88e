"""The verb `retrain` over one config or several: in this process, in processes of this machine, or on Ray.

Each task is a run of its own, and a worker that dies ends one task only: its finished steps are in the registry.
`--all` ends with the worst status of its tasks. A file that is no task is skipped with a word, and one that cannot be
read is an error of its own; neither ends the others. A child process is this module as a script:

    python -m trainers.retrain.fleet < job.json      # the last line of stdout is the outcome as JSON
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import InputError
from backbone.records import decode, encode
from registry.entries import NoRegistry, RegistryError
from trainers.config import TrainConfig
from trainers.retrain.configs import Reading, in_child, read_configs
from trainers.retrain.fingerprint import Taken, take
from trainers.retrain.outcome import Job, OnStep, Outcome
from trainers.retrain.run import retrain

if TYPE_CHECKING:
    from registry.database import Registry
    from registry.place import Place

log = logging.getLogger(__name__)

WORST_FIRST = (1, 2, 75, 12, 11, 10, 0)
CARRIED = ("TOPGRAFT_", "JAX_", "XLA_")  # starts of the variables that a Ray task gets from the command
RETRIES = 3  # new attempts of a Ray task whose worker died


@dataclass(frozen=True)
class Outcomes:
    """The result of `--all`."""

    exit: int  # worst status of the tasks
    tasks: tuple[Outcome, ...]  # outcomes in the order of the configs

    def table(self) -> str:
        """Returns a line for each config, for people; `--json` holds the rest."""
        name, action = (max((len(text) for text in texts), default=0) for texts in self._columns())
        lines = [f"{o.task:<{name}}  {o.action:<{action}}  {o.exit:>2}  {o.reason}" for o in self.tasks]
        return "\n".join([*lines, f"status {self.exit}, the worst of {len(self.tasks)}"])

    def _columns(self) -> tuple[list[str], list[str]]:
        return [o.task for o in self.tasks], [o.action for o in self.tasks]

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
        registry, now = _opened(job.place, config)
        try:
            return retrain(config, registry, job.place.artefacts(), job.options, on_step, now)
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


def _opened(place: Place, config: TrainConfig) -> tuple[Registry, Taken | None]:
    """Opens the registry. A new one is made once the data are known to be good; then their fingerprint is returned."""
    try:
        return place.open(), None
    except NoRegistry:
        now = take(config, None)
        return place.open(create=True), now


def reported(outcome: Outcome) -> Outcome:
    """Prints the reason of an error to stderr, and returns the outcome."""
    if outcome.action == "error":
        print(f"topgraft retrain: {outcome.reason}", file=sys.stderr)
    return outcome


def retrain_all(jobs: Sequence[Job], *, executor: str, workers: int) -> Outcomes:
    """Retrains every task, `workers` at a time.

    Raises InputError before anything runs if two configs are one task, or if Ray is requested and not installed.
    """
    if workers < 1:
        raise InputError(f"--workers: must be at least 1, got {workers}")
    readings = read_configs(jobs)
    tasks = [job for job, reading in zip(jobs, readings, strict=True) if reading.task]
    done = iter(on_ray(tasks, workers) if executor == "ray" else in_processes(tasks, workers))
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


def in_processes(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Runs a process for each task. A process that dies without an outcome gives one with status 1."""
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(_in_process, jobs))


def _in_process(job: Job) -> Outcome:
    quiet = replace(
        job, options=replace(job.options, show=False)
    )  # bars of several processes would overwrite each other
    done = in_child("trainers.retrain.fleet", encode(quiet))
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
    """Runs a Ray task for each job, `workers` at a time, on a running cluster or on this machine.

    Ray starts a task again when its worker dies. That is safe: the second run waits until the lease of the first has
    expired, and continues from the state in the registry.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--executor: ray is not installed: pip install 'topgraft[ray]' ({error})") from None
    started_here = not ray.is_initialized()
    if started_here:
        _connect(workers)
    try:
        task = ray.remote(max_retries=RETRIES, num_cpus=1, max_calls=1)(_on_ray)
        here = Here(str(Path.cwd()), {k: v for k, v in os.environ.items() if k.startswith(CARRIED)})

        def outcome(job: Job) -> Outcome:
            named = task.options(name=f"retrain {job.config}")
            return _ray_outcome(job, named.remote(encode(job), encode(here)))

        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(outcome, jobs))
    finally:
        if started_here:
            ray.shutdown()


def _connect(workers: int) -> None:
    """Connects to the cluster of `RAY_ADDRESS` or of `ray start`; without one, starts Ray on this machine."""
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    except ValueError:  # num_cpus is for a cluster that ray.init starts; one that runs has its own
        ray.init(**quiet)


@dataclass(frozen=True)
class Here:
    """The surroundings of the command, which a worker of a running cluster does not share."""

    folder: str  # working folder, to which paths are relative
    environment: dict[str, str]  # variables that change what a run does or where its files lie


def _on_ray(values: Mapping[str, Any], surroundings: Mapping[str, Any]) -> Any:
    """Runs a job given as plain data and returns its outcome likewise.

    The run waits for the lease of a worker that died.
    """
    job, here = decode(Job, dict(values)), decode(Here, dict(surroundings))
    os.environ.update(here.environment)
    try:
        os.chdir(here.folder)
    except OSError as error:
        reason = f"{platform.node()}: the command's folder {here.folder} cannot be entered: {error}; mount it there"
        return encode(Outcome(Path(job.config).stem, "error", 1, reason))
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
