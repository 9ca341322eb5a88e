"""Ray, on a cluster that runs or on this machine, and what its workers are told of the command's surroundings."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import InputError

CARRIED = ("TOPGRAFT_", "JAX_", "XLA_")  # starts of the variables that a worker gets from the command


@dataclass(frozen=True)
class Here:
    """The surroundings of the command, which a worker of a running cluster does not share."""

    folder: str  # working folder, to which paths are relative
    environment: dict[str, str]  # variables that change what a run does or where its files lie

    def enter(self) -> None:
        """Takes them over; raises InputError where the folder is not there."""
        os.environ.update(self.environment)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(
                f"{platform.node()}: the command's folder {self.folder} cannot be entered: {error}; mount it there"
            ) from error


def here() -> Here:
    """Returns the surroundings of this process."""
    return Here(str(Path.cwd()), {k: v for k, v in os.environ.items() if k.startswith(CARRIED)})


@contextlib.contextmanager
def connected(workers: int) -> Iterator[Any]:
    """Connects to the cluster of `RAY_ADDRESS` or of `ray start`, or starts Ray with `workers` here; yields the module.

    Raises InputError where Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--executor: ray is not installed: pip install 'topgraft[ray]' ({error})") from None
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    except ValueError:  # num_cpus is for a cluster that ray.init starts; one that runs has its own
        ray.init(**quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
