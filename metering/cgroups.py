"""The control groups of this process (Linux, versions 1 and 2): how much of the processors they grant.

A quota of an outer group bounds the inner ones, so the smallest on the way to the root holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_groups(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """Yields the folders of the groups that govern this process's CPU time, from the innermost to the roots."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    inner = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    mounts = {"": ("", "unified"), "cpu": ("cpu",), "cpu,cpuacct": ("cpu,cpuacct", "cpu")}
    for controllers, names in mounts.items():
        parts = [part for part in inner.get(controllers, "/").split("/") if part not in ("", "..")]
        for name in names:
            for depth in range(len(parts), -1, -1):
                yield root.joinpath(name, *parts[:depth])


def cpu_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Returns the processors that the control groups grant at a time; None without a limit."""
    quotas = (_quota(folder) for folder in cpu_groups(root, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    """Returns the quota that one group sets (`cpu.max` of version 2, else version 1); None for no limit."""
    try:
        granted, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
    except OSError:
        try:
            granted = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        share = float(granted) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return share if share > 0 and math.isfinite(share) else None


def throttled_seconds(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Returns the seconds for which the groups have held their processes back; None where no group counts them.

    They only rise, so the difference of two readings belongs to the time between.
    """
    totals = [total for folder in cpu_groups(root, membership) if (total := _throttled(folder)) is not None]
    return max(totals, default=None)


def _throttled(folder: Path) -> float | None:
    """Returns the total of one group: microseconds in version 2, nanoseconds in version 1."""
    if _quota(folder) is None:
        return None  # a group without a quota counts nothing
    try:
        lines = (folder / "cpu.stat").read_text().splitlines()
    except OSError:
        return None
    values = {name: value for name, _, value in (line.partition(" ") for line in lines)}
    for name, unit in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):
        if values.get(name, "").strip().isdigit():
            return int(values[name]) * unit
    return None
