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

from backbone.errors import InputError
from backbone.records import decode, encode
from backbone.variants.code_files import is_library
from backbone.variants.field_types import ORIGINS
from backbone.variants.registered import is_own
from backbone.variants.scripts import SCRIPT_NAME
from trainers.config import TrainConfig
from trainers.config.load import NoConfig
from trainers.retrain.outcome import Job


@dataclass(frozen=True)
class Reading:
    """One config as it was read: a task, a file that is none, or an error."""

    task: str = ""  # name of the task
    skipped: str = ""  # reason why the file is no task
    error: str = ""  # reason why it cannot be read
    alone: bool = False  # its script brings modules or variants, which another script may name alike


def read_configs(jobs: Sequence[Job]) -> list[Reading]:
    """Reads the config of each job. Raises InputError if two are one task, or if none is a task."""
    child = start_child("trainers.retrain.configs")
    output, _ = child.communicate(json.dumps([encode(job) for job in jobs]))
    lines = output.strip().splitlines()
    if child.returncode or not lines:
        raise ChildProcessError(f"the process that reads the configs ended with status {child.returncode}")
    readings = [decode(Reading, values) for values in json.loads(lines[-1])]
    _require_apart(jobs, readings)
    if jobs and all(reading.skipped for reading in readings):
        reasons = "; ".join(reading.skipped for reading in readings)
        raise InputError(f"config: nothing to retrain: {reasons}")
    return readings


def start_child(module: str) -> subprocess.Popen[str]:
    """Starts a module of ours as a script, with pipes as its standard input and output.

    Modules in the working folder can be imported there, but hide none of ours nor of Python's (a config `copy.py`).
    """
    places = [str(Path(__file__).resolve().parents[2]), ""]
    start = (
        f"import runpy, sys; sys.path += {places}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
        task = Reading(task=config.name, alone=_brings_code())
        sender.send(task if config.data.train else Reading(skipped=template))


def _brings_code() -> bool:
    """Returns whether this process, which has read a config script, holds modules or variants of a user beside it."""
    modules = [module for name, module in sys.modules.items() if not name.startswith(SCRIPT_NAME)]
    files = [file for module in modules if (file := getattr(module, "__file__", None))]
    return not all(map(is_library, files)) or any(map(is_own, ORIGINS))


if __name__ == "__main__":
    given = [decode(Job, values) for values in json.load(sys.stdin)]
    print(json.dumps([encode(read_apart(job)) for job in given]))
