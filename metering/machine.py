"""What tells one machine from another in speed and in rounding: processor, instruction sets, cores and quota.

Two runs are of one machine where these are equal. Results of benchmarks carry it, and what is remembered about a
machine (known answers, speeds) is kept by it. Imports no jax.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from metering.cgroups import CGROUPS, cpu_quota

# prefixes of the processor's flags that decide which kernels a library chooses
VECTOR_FLAGS = ("sse4", "avx", "amx", "fma", "f16c", "neon", "asimd", "sve", "bf16", "i8mm")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """A machine as far as a program's speed and rounding depend on it."""

    processor: str  # name of the model
    instruction_sets: tuple[str, ...]  # vector and matrix instructions, in alphabetical order
    cores: int  # processors that this process may use
    quota: float | None  # processors that the control group grants; None: no limit
    system: str  # operating system and architecture


def machine(cpuinfo: Path = CPUINFO, cgroups: Path = CGROUPS) -> Machine:
    """Returns the machine of this process."""
    fields = _first_processor(cpuinfo)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return Machine(
        processor=fields.get("model name") or platform.processor() or platform.machine(),
        instruction_sets=tuple(sorted({flag for flag in flags if flag.startswith(VECTOR_FLAGS)})),
        cores=usable_cores(),
        quota=cpu_quota(cgroups),
        system=f"{platform.system()} {platform.machine()}",
    )


def usable_cores() -> int:
    """Returns the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    """Returns the fields of the first processor in Linux' description; empty where there is none."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
