"""Joules, with the quality of the figure: a counter that rises under load, else a model, else nothing.

Sources in order: NVML's energy counters of the machine's GPUs, busy or not; RAPL's package counters; CPU seconds times
the watts of a busy core. Virtual machines often show RAPL files that never move. A counter is therefore trusted only
after it has risen during a short busy loop. RAPL's counters wrap around, some within minutes. So a thread reads the
trusted one more often than that, however long a phase is.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Quality = Literal["measured_counter", "modelled", "unavailable"]

POWERCAP = Path("/sys/class/powercap")
TRIAL_SECONDS = 0.2  # length of the busy loop in which a counter must rise
MAX_WATTS = 1000.0  # power that no package exceeds: by it a counter wraps around at the soonest
MIN_PERIOD = 0.01  # seconds between two readings of a counter, however small its range
# Watts of one busy core with its share of caches, memory and power supply. Low is a many-core server part (280 W over
# 128 threads), mid a small server or laptop, high a desktop part at full clock.
WATTS_PER_CORE = {"low": 2.0, "mid": 6.0, "high": 15.0}


@dataclass(frozen=True)
class Joules:
    """The energy of a phase."""

    quality: Quality
    value: float | None  # joules: counted, or the model's middle value; None if unavailable
    low: float | None = None  # lower figure of a model, joules
    high: float | None = None  # upper figure of a model, joules
    source: str = ""  # the counter, the model's priors, or the reason why there is no figure
    parts: tuple[Joules, ...] = ()  # energies of several qualities or meters, which have no sum; () for one of them

    def rounded(self) -> Joules:
        """Returns the same figures with three decimals."""
        numbers = (self.value, self.low, self.high)
        value, low, high = (None if number is None else round(number, 3) for number in numbers)
        return Joules(self.quality, value, low, high, self.source, tuple(part.rounded() for part in self.parts))


@dataclass(frozen=True)
class Counter:
    """A monotonic energy counter."""

    name: str
    read: Callable[[], float]  # returns the joules since some moment
    period: float | None = None  # seconds between two readings that miss no wrap; None: it never wraps around


def rapl(root: Path = POWERCAP) -> Counter | None:
    """Returns a counter of all RAPL package domains below `root`, or None if none can be read."""
    packages = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            if (folder / "name").read_text().strip().startswith("package"):
                int((folder / "energy_uj").read_text())
                _range(folder)
                packages.append(folder)
        except (OSError, ValueError):
            continue
    if not packages:
        return None
    wraps = dict.fromkeys(packages, 0.0)
    last = dict.fromkeys(packages, 0.0)
    alone = threading.Lock()  # two threads that see one wrap would count it twice

    def read() -> float:
        total = 0.0
        with alone:
            for folder in packages:
                now = int((folder / "energy_uj").read_text()) / 1e6
                if now < last[folder]:  # the counter wrapped around
                    wraps[folder] += _range(folder)
                last[folder] = now
                total += now + wraps[folder]
        return total

    return Counter("rapl", read, max(MIN_PERIOD, min(map(_range, packages)) / MAX_WATTS / 2))


def _range(package: Path) -> float:
    """Returns the joules at which a package's counter begins anew."""
    return int((package / "max_energy_range_uj").read_text()) / 1e6


def followed(counter: Counter) -> Counter:
    """Returns the counter; a thread reads one that wraps around until it can be read no more."""

    def follow(period: float) -> None:
        while True:
            time.sleep(period)
            try:
                counter.read()
            except (OSError, ValueError):
                return

    if counter.period is not None:
        threading.Thread(target=follow, args=(counter.period,), name="energy", daemon=True).start()
    return counter


def gpus() -> list[Any]:
    """Returns NVML's handles of this machine's NVIDIA GPUs; none without `pynvml` or a driver."""
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
    """Returns a counter of all of this machine's NVIDIA GPUs (Volta or newer), or None if they have none."""
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
    """Returns whether the counter moves while the processor is busy; one that does not is no meter."""
    before, until, value = counter.read(), time.monotonic() + seconds, 1.0
    while time.monotonic() < until:
        value = value * 1.0000001 + 1e-9 if load is None else (load(), value)[1]
    return counter.read() > before


@functools.cache
def meter(accelerator: bool = False) -> Counter | None:
    """Returns the counter to trust in this process, NVML on a GPU, else RAPL; None if it stands still."""
    candidate = nvml() if accelerator else rapl()
    return followed(candidate) if candidate and rises(candidate) else None


def modelled(cpu_seconds: float, accelerator: bool = False) -> Joules:
    """Returns the joules of a phase without a counter, from the CPU seconds it took."""
    if accelerator:
        return Joules("unavailable", None, source="no NVML energy counter; CPU seconds say nothing of an accelerator")
    low, mid, high = (cpu_seconds * watts for watts in WATTS_PER_CORE.values())
    priors = "/".join(f"{watts:g}" for watts in WATTS_PER_CORE.values())
    return Joules("modelled", mid, low, high, f"CPU seconds times {priors} W per busy core")
