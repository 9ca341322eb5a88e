"""Joules, with the quality of the figure: a counter that rises under load, else a model, else nothing.

Sources in order: NVML's energy counters of the machine's GPUs, busy or not, RAPL's package counters, else CPU seconds
times the watts of a busy core. Virtual machines often show RAPL files that never move, so a counter is
trusted only after it has risen during a short busy loop.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Quality = Literal["measured_counter", "modelled", "unavailable"]

POWERCAP = Path("/sys/class/powercap")
TRIAL_SECONDS = 0.2
# Watts of one busy core with its share of caches, memory and power supply: low is a many-core server
# part (280 W over 128 threads), mid a small server or laptop, high a desktop part at full clock.
WATTS_PER_CORE = {"low": 2.0, "mid": 6.0, "high": 15.0}


@dataclass(frozen=True)
class Joules:
    """Energy of a phase."""

    quality: Quality
    value: float | None  # joules: counted, or the model's mid; None if unavailable
    low: float | None = None  # of a model
    high: float | None = None
    source: str = ""  # the counter, the model's priors, or why there is none

    def rounded(self) -> Joules:
        """Returns the same figures with three decimals."""
        numbers = (self.value, self.low, self.high)
        value, low, high = (None if number is None else round(number, 3) for number in numbers)
        return Joules(self.quality, value, low, high, self.source)

    def asdict(self) -> dict[str, Any]:
        """Returns the rounded figures as JSON values."""
        return asdict(self.rounded())


@dataclass(frozen=True)
class Counter:
    """A monotonic energy counter."""

    name: str
    read: Callable[[], float]  # joules since some moment


def rapl(root: Path = POWERCAP) -> Counter | None:
    """The sum of RAPL's package domains below `root`, or None where none can be read."""
    packages = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            if (folder / "name").read_text().strip().startswith("package"):
                int((folder / "energy_uj").read_text())
                packages.append(folder)
        except (OSError, ValueError):
            continue
    if not packages:
        return None
    wraps = dict.fromkeys(packages, 0.0)
    last = dict.fromkeys(packages, 0.0)

    def read() -> float:
        total = 0.0
        for folder in packages:
            now = int((folder / "energy_uj").read_text()) / 1e6
            if now < last[folder]:  # the counter went round
                wraps[folder] += int((folder / "max_energy_range_uj").read_text()) / 1e6
            last[folder] = now
            total += now + wraps[folder]
        return total

    return Counter("rapl", read)


def gpus() -> list[Any]:
    """NVML's handles of this machine's NVIDIA GPUs; none without `pynvml` or a driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def nvml() -> Counter | None:
    """The sum of the energy counters of this machine's NVIDIA GPUs (Volta or newer), or None."""
    if not (handles := gpus()):
        return None
    import pynvml

    try:
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # no counter
        return None
    name = "nvml" if len(handles) == 1 else f"nvml, all {len(handles)} GPUs of the machine"
    return Counter(name, lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in handles) / 1e3)


def rises(counter: Counter, load: Callable[[], object] | None = None, seconds: float = TRIAL_SECONDS) -> bool:
    """Whether the counter moves while the processor is busy; one that does not is no meter."""
    before, until, value = counter.read(), time.monotonic() + seconds, 1.0
    while time.monotonic() < until:
        value = value * 1.0000001 + 1e-9 if load is None else (load(), value)[1]
    return counter.read() > before


@functools.cache
def meter(accelerator: bool = False) -> Counter | None:
    """The counter to trust in this process: NVML if work runs on a GPU, else RAPL; None if neither moves."""
    candidate = nvml() if accelerator else rapl()
    return candidate if candidate and rises(candidate) else None


def modelled(cpu_seconds: float, accelerator: bool = False) -> Joules:
    """Joules of a phase without a counter, from the CPU seconds it took."""
    if accelerator:
        return Joules("unavailable", None, source="no NVML energy counter; CPU seconds say nothing of an accelerator")
    low, mid, high = (cpu_seconds * watts for watts in WATTS_PER_CORE.values())
    priors = "/".join(f"{watts:g}" for watts in WATTS_PER_CORE.values())
    return Joules("modelled", mid, low, high, f"CPU seconds times {priors} W per busy core")
