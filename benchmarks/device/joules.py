"""The joules of a window beside an integration of the power that NVML shows, while the device multiplies and rests.

A thread reads the power every 10 ms; the trapezoidal sum over a window is compared with the window's own figure. Short
windows say how far a counter of long steps can be trusted.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device.part import Part, described
from metering.energy import gpus, nvml
from metering.window import window

SECONDS = (0.1, 0.3, 1.0, 3.0)  # lengths of windows
ROUNDS = 3
PAUSE = 0.01  # seconds between two readings of the power


class Power(threading.Thread):
    """Readings of the power of all GPUs: (seconds, watts)."""

    def __init__(self, handles: list[Any]):
        super().__init__(daemon=True)
        self.handles, self.readings, self.ended = handles, [self.read(handles)], threading.Event()

    @staticmethod
    def read(handles: list[Any]) -> tuple[float, float]:
        import pynvml

        return time.perf_counter(), sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1e3

    def run(self) -> None:
        while not self.ended.wait(PAUSE):
            self.readings.append(self.read(self.handles))
        self.readings.append(self.read(self.handles))

    def joules(self) -> float:
        self.ended.set()
        self.join()
        at, watts = np.array(self.readings).T
        return float(np.trapezoid(watts, at))


def steps_of_the_counter(seconds: float = 1.0) -> dict[str, Any]:
    """Returns how often the energy counter moves, and by how much."""
    counter = nvml()
    if counter is None:
        return {}
    moved, last, end = [], counter.read(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        if (now := counter.read()) != last:
            moved.append((time.perf_counter(), now - last))
            last = now
    gaps = np.diff([at for at, _ in moved])
    return {"moves": len(moved), "median_gap_seconds": float(np.median(gaps)) if len(gaps) else None}


def main() -> None:
    part = Part("joules", __doc__.split("\n")[0])
    part.add(device=described())
    side = 256 if part.tiny else 8192
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(a))
    handles, runs = gpus(), []
    part.add(counter=steps_of_the_counter())
    for seconds in SECONDS[:2] if part.tiny else SECONDS:
        for busy in (True, False):
            for _ in range(ROUNDS):
                power = Power(handles) if handles else None
                if power:
                    power.start()
                with window("products" if busy else "rest") as cost:
                    end = time.perf_counter() + seconds
                    while busy and time.perf_counter() < end:
                        jax.block_until_ready([product(a) for _ in range(10)])
                    time.sleep(max(0.0, end - time.perf_counter()))
                integral = power.joules() if power else None
                energy = cost.joules
                runs.append(
                    {
                        "seconds": cost.wall_seconds,
                        "busy": busy,
                        "window": energy.value,
                        "quality": energy.quality,
                        "source": energy.source,
                        "integral": integral,
                        "ratio": energy.value / integral if energy.value and integral else None,
                    }
                )
        part.add(runs=runs)


if __name__ == "__main__":
    main()
