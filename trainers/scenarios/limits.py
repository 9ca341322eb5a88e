"""Fewer processors for this process: by affinity, or by a control group of its own where that is permitted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import InputError
from metering.cgroups import CGROUPS, MEMBERSHIP, cpu_groups

PERIOD = 100_000  # microseconds of a period in which a quota is granted


def restrict_cores(cores: int) -> None:
    """Keeps this process on its first `cores` processors; raises InputError where that cannot be done.

    Call it before jax starts, which makes as many threads as there are processors.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("--cores: this system cannot keep a process on some of its processors; leave it out")
    usable = sorted(os.sched_getaffinity(0))
    if cores > len(usable):
        raise InputError(f"--cores: {cores} processors, of {len(usable)} that this process may use; name fewer")
    os.sched_setaffinity(0, usable[:cores])


@contextlib.contextmanager
def restricted_quota(processors: float, root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """Moves this process into a control group that grants `processors` while the block runs.

    Yields the group's folder. Raises InputError where no group can be made, as in most containers.
    """
    parent = next((folder for folder in cpu_groups(root, membership) if (folder / "cgroup.procs").is_file()), None)
    if parent is None:
        raise InputError("--cpu-quota: no control group of this process was found; start it under one with a quota")
    group = parent / f"topgraft-{os.getpid()}"
    try:
        group.mkdir()
        _grant(group, processors)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise InputError(
            f"--cpu-quota: {error}; start the command in a group or container that has the quota (`docker run --cpus`)"
        ) from error
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            (parent / "cgroup.procs").write_text(str(os.getpid()))
            group.rmdir()


def _grant(group: Path, processors: float) -> None:
    """Writes the quota of a group, in the form of its version."""
    granted = max(1000, round(processors * PERIOD))
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(granted))
    else:
        (group / "cpu.max").write_text(f"{granted} {PERIOD}")
