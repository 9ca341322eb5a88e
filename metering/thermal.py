"""The temperature of the hottest sensor, where one can be read."""

from __future__ import annotations

import functools
from collections.abc import Callable

import psutil


def nvml() -> Callable[[], float] | None:
    """Degrees Celsius of the hottest of this machine's NVIDIA GPUs, or None."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    except pynvml.NVMLError:  # no driver, no device, or no sensor
        return None
    if not handles:
        return None
    return lambda: float(max(pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU) for h in handles))


def sensors() -> Callable[[], float | None] | None:
    """Degrees Celsius of the hottest sensor that the operating system shows, or None; virtual machines have none."""

    def hottest() -> float | None:
        shown = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        return max((entry.current for entries in shown.values() for entry in entries if entry.current), default=None)

    return None if hottest() is None else hottest


@functools.cache
def thermometer(accelerator: bool = False) -> Callable[[], float | None] | None:
    """What reads the temperature of the device in use; None where nothing does."""
    return nvml() if accelerator else sensors()
