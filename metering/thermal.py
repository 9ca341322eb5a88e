"""The temperature of the hottest sensor, where one can be read."""

from __future__ import annotations

import functools
from collections.abc import Callable

import psutil

from metering.energy import gpus


def nvml() -> Callable[[], float | None] | None:
    """Returns a reader of the hottest of this machine's NVIDIA GPUs, in degrees Celsius; None without a sensor."""
    if not (handles := gpus()):
        return None
    import pynvml

    def hottest() -> float | None:
        try:
            degrees = [pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) for handle in handles]
        except pynvml.NVMLError:  # no sensor, or the driver is busy at the moment
            return None
        return float(max(degrees))

    return None if hottest() is None else hottest


def sensors() -> Callable[[], float | None] | None:
    """Returns a reader of the hottest sensor that the operating system shows, in degrees Celsius.

    None without a sensor, as on virtual machines.
    """

    def hottest() -> float | None:
        shown = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        return max((entry.current for entries in shown.values() for entry in entries if entry.current), default=None)

    return None if hottest() is None else hottest


@functools.cache
def thermometer(accelerator: bool = False) -> Callable[[], float | None] | None:
    """Returns the reader of the device in use; None where it has no sensor."""
    return nvml() if accelerator else sensors()
