"""The configs of `retrain --all`, read before anything runs: which of them are tasks, and under which names.

Every script is read in a process of its own. One that ends its process, or defines a variant that another script
defines too, harms no other. This module as a script forks those processes; it imports no jax and has no threads:

    python -m trainers.retrain.configs < jobs.json      # the last line of stdout is a list of readings as JSON
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.records import decode, encode
from trainers.config import TrainConfig
from trainers.config.load import NoConfig
from trainers.retrain.outcome import Job


@dataclass(frozen=True)
class Reading:
    """One config as it was read: a task, a file that is none, or an error."""

    task: str = ""  # name of the task
    skipped: str = ""  # reason why the file is no task
    error: str = ""  # reason why it cannot be read


def read_configs(jobs: Sequence[Job]) -> list[Reading]:
    """Reads the config of each job. Raises InputError if two are one task, or if none is a task."""
    done = in_child("trainers.retrain.configs", [encode(job) for job in jobs])
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise ChildProcessError(f"the process that reads the configs ended with status {done.returncode}")
    readings = [decode(Reading, values) for values in json.loads(lines[-1])]
    _require_apart(jobs, readings)
    if jobs and all(reading.skipped for reading in readings):
        reasons = "; ".join(reading.skipped for reading in readings)
        raise InputError(f"config: nothing to retrain: {reasons}")
    return readings


def in_child(module: str, values: Any) -> subprocess.CompletedProcess[str]:
    """Runs a module of ours as a script, with `values` as JSON on its standard input.

    Modules in the working folder can be imported there, but hide none of ours nor of Python's (a config `copy.py`).
    """
    places = [str(Path(__file__).resolve().parents[2]), ""]
    start = (
        f"import runpy, sys; sys.path += {places}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", start],
        input=json.dumps(values),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


def _require_apart(jobs: Sequence[Job], readings: Sequence[Reading]) -> None:
    """Raises InputError if two configs have one name: each would replace the live version of the other."""
    files: dict[str, str] = {}
    for job, reading in zip(jobs, readings, strict=True):
        other = files.setdefault(reading.task, job.config) if reading.task else job.config
        if other is not job.config:
            raise InputError(
                f"config: {other} and {job.config} are both the task {reading.task!r}; give one of them another name="
            )


def read_apart(job: Job) -> Reading:
    """Reads the config of a job in a forked process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, sender))
    process.start()
    sender.close()
    try:
        reading: Reading = receiver.recv()
    except EOFError:
        process.join()
        return Reading(error=f"{job.config}: the config script ended its process, with status {process.exitcode}")
    process.join()
    return reading


def _send(job: Job, sender: Connection) -> None:
    """Reads the config of a job and sends the reading."""
    try:
        config = job.load(TrainConfig)
    except NoConfig as error:
        sender.send(Reading(skipped=str(error)))
    except InputError as error:
        sender.send(Reading(error=str(error)))
    else:
        template = f"{job.config}: a template: its data.train names no file"
        sender.send(Reading(task=config.name) if config.data.train else Reading(skipped=template))


if __name__ == "__main__":
    given = [decode(Job, values) for values in json.load(sys.stdin)]
    print(json.dumps([encode(read_apart(job)) for job in given]))
