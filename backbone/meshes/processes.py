"""Several processes as one run: joined by `jax.distributed`, and of one mind about what they are to do.

Processes find each other by the environment: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, as
Kubeflow's runtime `jax-distributed` sets them. `JOB_COMPLETION_INDEX` of an indexed Job stands for the last. Slurm's
variables and those of a TPU pod are read by jax itself. A run on one device joins nothing. Imports no jax.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backbone.errors import InputError
from backbone.lazy import jax
from backbone.meshes.mesh import Mesh

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
INDEX = "JOB_COMPLETION_INDEX"  # number of a pod in an indexed Job
HEARTBEAT_SECONDS = 30  # silence after which a process counts as lost
SHUTDOWN_SECONDS = 10  # wait for the others at the end
LOST = re.compile("gloo|nccl|connection|peer|UNAVAILABLE|DEADLINE_EXCEEDED|coordination", re.IGNORECASE)  # of its error
MESSAGE_BYTES = 4096  # room for a message that one process sends to the others


@dataclass(frozen=True)
class Addresses:
    """The arguments of `jax.distributed.initialize` that say where the processes are; None where jax finds out."""

    coordinator_address: str | None = None  # host and port of the first process
    num_processes: int | None = None
    process_id: int | None = None  # number of this process, from 0


def join(mesh: Mesh, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes that the environment names, unless the mesh is one device; jax may not have started yet.

    Raises InputError for variables that are missing or no numbers.
    """
    if mesh == Mesh() or not names_several(environment) or jax.distributed.is_initialized():
        return
    update: Any = jax.config.update
    update("jax_cpu_collectives_implementation", "gloo")
    update("jax_enable_preemption_service", False)  # the loop saves on a signal itself
    jax.distributed.initialize(
        **asdict(addresses(environment)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def names_several(environment: Mapping[str, str]) -> bool:
    """Returns whether the environment names several processes of one run."""
    if COUNT in environment or ADDRESS in environment:
        return environment.get(COUNT) != "1"
    slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")  # libtpu writes a sentence into it where there are none
    return slurm or ("," in hosts and " " not in hosts)


def addresses(environment: Mapping[str, str]) -> Addresses:
    """Returns the places that the environment names; raises InputError for a variable that is missing or no number."""
    if COUNT not in environment and ADDRESS not in environment:
        return Addresses()
    values = {ADDRESS: environment.get(ADDRESS, ""), COUNT: environment.get(COUNT, "")}
    values[NUMBER] = environment.get(NUMBER, environment.get(INDEX, ""))
    for name, value in values.items():
        if not value or (name != ADDRESS and not value.isdecimal()):
            raise InputError(
                f"{name}: {value!r}; a run of several processes needs {ADDRESS} (host:port of the first one), {COUNT} "
                f"and {NUMBER} (0 for the first one) in each"
            )
    if int(values[NUMBER]) >= int(values[COUNT]):
        raise InputError(f"{NUMBER}: {values[NUMBER]} must be below {COUNT}={values[COUNT]}; numbers begin at 0")
    return Addresses(values[ADDRESS], int(values[COUNT]), int(values[NUMBER]))


def several() -> bool:
    """Returns whether this run has more than one process."""
    return bool(jax.process_count() > 1)


def leads() -> bool:
    """Returns whether this process writes what is written once."""
    return bool(jax.process_index() == 0)


def said_by_all(text: str) -> list[str]:
    """Returns the texts of all processes, in their order; longer ones are cut."""
    if not several():
        return [text]
    from jax.experimental.multihost_utils import process_allgather

    content = np.frombuffer(text.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0"), np.uint8)
    with jax.transfer_guard("allow"):
        rows = np.asarray(process_allgather(content)).reshape(-1, MESSAGE_BYTES)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


def any_of_all(*flags: bool) -> tuple[bool, ...]:
    """Returns for each flag whether it is set in any process."""
    texts = said_by_all("".join(str(int(flag)) for flag in flags))
    return tuple(any(text[i] == "1" for text in texts) for i in range(len(flags)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block in every process; bad input in one of them is raised in all, and none goes on before the others."""
    problem: InputError | None = None
    try:
        yield
    except InputError as error:
        problem = error
    for number, text in enumerate(said_by_all("" if problem is None else str(problem) or "bad input")):
        if text and problem is None:
            raise InputError(f"process {number}: {text}")
    if problem is not None:
        raise problem


def require_same(identity: Mapping[str, str]) -> None:
    """Raises InputError, in every process, unless all have the same identity of the run; it names what differs."""
    for name, value in identity.items():
        values = said_by_all(value)
        if len(set(values)) > 1:
            listed = ", ".join(f"process {number}: {text}" for number, text in enumerate(values))
            raise InputError(
                f"the processes of this run differ in {name} ({listed}); give all the same files and config"
            )


@contextlib.contextmanager
def losing_none() -> Iterator[None]:
    """Turns the failure of a collective into an error that says so, after which this process ends without waiting."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several() or not LOST.search(str(error)):
            raise
        _end_soon()
        first_line = (str(error).splitlines() or [""])[0]
        raise ConnectionError(
            f"another process of this run has ended or cannot be reached ({first_line}); start all of them again with "
            "--resume"
        ) from error


def _end_soon() -> None:
    """Ends this process once its error is printed; jax would wait minutes for processes that are gone."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(end)
    timer = threading.Timer(SHUTDOWN_SECONDS, end)  # should a thread keep the interpreter from its end
    timer.daemon = True
    timer.start()
