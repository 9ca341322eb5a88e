"""What surrounds a program and changes its speed: packages, threads, frequency governors. Imports no jax."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metering.one_thread import CHOSEN

if TYPE_CHECKING:
    from importlib.metadata import Distribution

PROCESSORS = Path("/sys/devices/system/cpu")
TASKS = Path("/proc/self/task")
# variables that set how many threads a library starts, and where they run
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "MKL_NUM_THREADS"),
    *(CHOSEN, "NPROC", "PJRT_NPROC", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)
POOLS = ("tf_XLAEigen", "XLAEigen")  # beginnings of the names of XLA's threads for products
LONG = 60  # characters from which a licence is its whole text, not its name


@dataclass(frozen=True)
class Package:
    """An installed distribution."""

    name: str
    version: str
    licence: str  # expression or name, as its metadata state it; "" where they state none


@dataclass(frozen=True)
class Surroundings:
    """What is installed and set around a program."""

    packages: tuple[Package, ...]  # every distribution that can be imported, by name
    threads: dict[str, str]  # variables that set threads
    pool: int | None  # threads with which XLA computes products; None: not known here
    governors: tuple[str, ...]  # frequency governors of the processors, each once; () where none is shown


def surroundings(environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Returns what surrounds this process; the pool is known once jax has compiled something."""
    environment = {CHOSEN: "1", **environment}  # one thread where nobody chose
    threads = {name: environment[name] for name in THREAD_VARIABLES if name in environment}
    return Surroundings(packages(), threads, pool_threads(), governors())


def packages() -> tuple[Package, ...]:
    """Returns the installed distributions; of two with one name, the one that is imported."""
    from importlib.metadata import distributions  # takes a tenth of a second

    first: dict[str, Package] = {}
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name and name not in first:
            first[name] = Package(name, distribution.version or "", licence_of(distribution))
    return tuple(first[name] for name in sorted(first))


def licence_of(distribution: Distribution) -> str:
    """Returns the licence that a distribution states: expression, else classifiers, else a short field."""
    metadata = distribution.metadata
    stated = metadata.get_all("License-Expression") or ()
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    field = (metadata.get_all("License") or [""])[0].strip()
    names = [text.rpartition("::")[2].strip() for text in classifiers if text.count("::") > 1]
    short = [field] if 0 < len(field) <= LONG and "\n" not in field and field != "UNKNOWN" else []
    return next((", ".join(one) for one in (stated, names, short) if one), "")


def governors(root: Path = PROCESSORS) -> tuple[str, ...]:
    """Returns the frequency governors of the processors, each once, in alphabetical order; () where none is shown."""
    names = set()
    for file in root.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            names.add(file.read_text().strip())
        except OSError:
            continue
    return tuple(sorted(names - {""}))


def pool_threads(tasks: Path = TASKS) -> int | None:
    """Returns the number of this process's threads that compute products; None where the system does not say."""
    names = []
    for task in tasks.glob("*/comm"):
        try:
            names.append(task.read_text().strip())
        except OSError:
            continue
    return sum(name.startswith(POOLS) for name in names) or None
