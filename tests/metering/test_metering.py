"""Clocks, joules with their quality, peak memory, and counted work against the compiler's own count."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.block_counts import block_forward
from adapters.costs import forward, train_step
from adapters.model import GraftModel
from adapters.specs import Classification, Ladder, Lora, Probe
from backbone.network.encoder import Network
from backbone.records import decode, encode
from backbone.spec import EncoderSpec
from metering.cost import add_joules
from metering.counts import Count, product
from metering.energy import WATTS_PER_CORE, Counter, Joules, followed, modelled, rapl, rises
from metering.window import count_work, window
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step, partition
from trainers.fitting.task import live_from


def package(root: Path, number: int, microjoules: int, most: int = 10**9, name: str = "package-0") -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_rapl_adds_packages_and_survives_a_wrap(tmp_path):
    first, _ = package(tmp_path, 0, 2_000_000), package(tmp_path, 1, 500_000, name="package-1")
    package(tmp_path, 2, 77_000_000, name="psys")
    counter = rapl(tmp_path)
    assert counter is not None
    assert counter.read() == pytest.approx(2.5)
    (first / "energy_uj").write_text("999000000")
    assert counter.read() == pytest.approx(999.5)
    (first / "energy_uj").write_text("1000000")  # went round at 1000 J
    assert counter.read() == pytest.approx(1001.5)
    assert rapl(tmp_path / "none") is None


WRITER = """
import math, pathlib, sys, time
file, wrap = pathlib.Path(sys.argv[1]), int(sys.argv[2])
while True:
    t = time.monotonic()
    joules = 40 * t - 15 * math.cos(3 * t) / 3  # 40 W, more or less by 15 W every two seconds
    fresh = file.with_name("fresh")
    fresh.write_text(f"{int(1e6 * joules) % wrap}\\n")
    fresh.replace(file)  # a reader never sees half a number
    time.sleep(0.001)
"""


def integrated(file: Path, wrap: int, ended: threading.Event) -> float:
    """Joules by the counter's steps, each modulo its range."""
    microjoules, last = 0, int(file.read_text())
    while not ended.wait(0.017):
        now = int(file.read_text())
        microjoules, last = microjoules + (now - last) % wrap, now
    return (microjoules + (int(file.read_text()) - last) % wrap) / 1e6


def test_joules_are_those_of_an_independent_integration_over_wraps(tmp_path, monkeypatch):
    """A process writes the counter as the kernel does; it wraps around every half second, four times in the window."""
    wrap, ended = 20_000_000, threading.Event()
    file = package(tmp_path, 0, 1, most=wrap) / "energy_uj"
    with subprocess.Popen([sys.executable, "-S", "-c", WRITER, str(file), str(wrap)]) as writer:
        try:
            while file.read_text() == "1\n":
                time.sleep(0.01)
            counter = followed(rapl(tmp_path))
            assert counter.period == pytest.approx(0.01)
            monkeypatch.setattr("metering.window.meter", lambda accelerator: counter)
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(integrated, file, wrap, ended)
                begin = time.monotonic()
                with window("long") as cost:
                    time.sleep(2.2)
                end = time.monotonic()
                ended.set()
                joules = beside.result()
        finally:
            writer.kill()
    right = 40 * (end - begin) - 5 * (math.cos(3 * end) - math.cos(3 * begin))
    assert cost.joules.quality == "measured_counter"
    assert right > 4 * wrap / 1e6
    assert cost.joules.value == pytest.approx(joules, rel=0.05)
    assert cost.joules.value == pytest.approx(right, rel=0.05)


def test_nobody_follows_a_counter_that_never_wraps():
    before = threading.active_count()
    followed(Counter("nvml", lambda: 1.0))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("watts", "busy"),
    [(280.0, 128), (280.0, 64), (95.0, 8), (170.0, 16)],
    ids=["EPYC, threads", "cores", "Xeon", "Ryzen"],
)
def test_the_bounds_of_a_model_hold_a_figure_by_hand(watts, busy):
    """Design power of an EPYC 7763, a Xeon E-2288G and a Ryzen 7950X over threads or cores, for 100 CPU seconds."""
    joules = modelled(100.0)
    assert joules.low <= 100 * watts / busy <= joules.high


def test_a_counter_that_does_not_rise_is_no_meter(tmp_path):
    package(tmp_path, 0, 5)
    still = rapl(tmp_path)
    assert still is not None
    assert not rises(still, seconds=0.01)
    steps = itertools.count()
    assert rises(Counter("moving", lambda: float(next(steps))), seconds=0.01)


def test_a_counter_that_does_not_rise_in_a_window_is_no_zero(monkeypatch):
    """NVML's counter moves every 0.1 s: eight of 21 windows of 65 ms on an H200 saw no step of it."""
    values = iter([5.0, 5.0, 7.0, 9.5])
    monkeypatch.setattr("metering.window.meter", lambda accelerator: Counter("stepping", lambda: next(values)))
    with window("short") as short:
        pass
    assert (short.joules.quality, short.joules.value, short.watts) == ("unavailable", None, None)
    assert "stepping did not rise in" in short.joules.source
    with window("long") as long:
        pass
    assert (long.joules.quality, long.joules.value) == ("measured_counter", 2.5)


def test_a_model_says_that_it_is_one():
    joules = modelled(10.0)
    assert (joules.quality, joules.low, joules.value, joules.high) == (
        "modelled",
        *(10 * w for w in WATTS_PER_CORE.values()),
    )
    assert "per busy core" in joules.source
    unknown = modelled(10.0, accelerator=True)
    assert (unknown.quality, unknown.value) == ("unavailable", None)
    assert unknown.source


def test_work_is_counted_in_the_innermost_window():
    count_work(lambda: pytest.fail("no window is open"))
    with window("outer") as outer:
        count_work(lambda: Count(1, 10))
        with window("inner") as inner:
            count_work(lambda: Count(2, 20))
    assert (inner.flops, inner.bytes_moved) == (2, 20)
    assert (outer.flops, outer.bytes_moved) == (3, 30)


def test_a_window_measures_time_and_work():
    with window("outer") as outer:
        with window("sleep") as sleep:
            time.sleep(0.2)
        with window("busy") as busy:
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
            busy.add(flops=5, bytes_moved=7)
    assert 0.2 <= sleep.wall_seconds < outer.wall_seconds
    assert sleep.cpu_seconds < 0.1
    assert 0.05 <= busy.cpu_seconds <= outer.cpu_seconds
    record = busy.record()
    assert (record.flops, record.bytes_moved) == (5, 7)
    assert (outer.flops, outer.bytes_moved) == (5, 7), "what is counted inside is counted outside"
    assert (sleep.record().flops, sleep.record().bytes_moved) == (None, None), "nobody counted: not 0"
    assert record.joules.quality in ("measured_counter", "modelled")
    assert (record.watts or 0) > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory of a phase needs Linux")
def test_the_peak_of_a_phase_is_its_own():
    with window("outer") as outer:
        with window("large") as large:
            block = np.ones(60_000_000 // 8)
            block += 1
        del block
        with window("small") as small:
            small.add(flops=1)
    assert large.peak_bytes is not None
    assert small.peak_bytes is not None
    assert large.peak_bytes - small.peak_bytes > 40_000_000
    assert outer.peak_bytes >= large.peak_bytes


def test_products_are_counted():
    count = product(3, 4, 5, batch=2)
    assert (count.flops, count.bytes) == (2 * 3 * 4 * 5 * 2, 4 * (12 + 20 + 15) * 2)


SPEC = EncoderSpec(blocks=3, width=128, heads=4, mlp_width=512, vocabulary=100, positions=64)
BATCH, TOKENS = 8, 32


def compiled_flops(function, *arguments) -> float:
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


@pytest.fixture(scope="module")
def built():
    network = Network(SPEC)
    model = GraftModel(network, (Lora(rank=4),), Classification(), ("a", "b"))
    return network, model, network.init(0), model.init(jax.random.key(0))


def batch():
    return {
        "ids": np.ones((BATCH, TOKENS), np.int32),
        "mask": np.ones((BATCH, TOKENS), bool),
        "labels": np.zeros(BATCH, np.int32),
        "weights": np.ones(BATCH, np.float32),
    }


def test_forward_work_agrees_with_the_compiler(built):
    network, model, backbone, params = built
    hidden = jnp.ones((BATCH, TOKENS, SPEC.width))
    counted = block_forward(SPEC, BATCH, TOKENS).flops
    found = compiled_flops(
        lambda p, h, m: network.run_blocks(p, h, m, start=1, stop=2), backbone, hidden, batch()["mask"]
    )
    assert counted == pytest.approx(found, rel=0.1)
    found = compiled_flops(lambda b, p, x: model.logits(b, p, x), backbone, params, batch())
    assert forward(model, BATCH, TOKENS).flops == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("boundary", [0, 1, 2])
def test_training_work_agrees_with_the_compiler(boundary, built):
    _, model, backbone, params = built
    live, frozen = partition(params, live_from(boundary))
    optimizer = make_optimizer(Optimizer(), 10)
    step = make_step(model, optimizer, remat=False, seed=0)
    rows = batch()
    if boundary:
        rows["states"] = {boundary: np.ones((BATCH, TOKENS, SPEC.width), np.float32)}
        del rows["ids"]
    analysis = step.lower(first_state(live, optimizer), {"backbone": backbone, "graft": frozen}, rows).compile()
    found = analysis.cost_analysis()
    found = float((found[0] if isinstance(found, list) else found)["flops"])
    counted = train_step(model, BATCH, TOKENS, boundary=boundary, cached=boundary > 0).flops
    assert counted == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("method", [Lora(rank=4, blocks="2:"), Probe(), Ladder(reduction=2)], ids=lambda m: m.method)
def test_gradients_stop_at_the_lowest_adapted_block(method, built):
    network, _, backbone, _ = built
    model = GraftModel(network, (method,), Classification(), ("a", "b"))
    optimizer = make_optimizer(Optimizer(), 10)
    step = make_step(model, optimizer, remat=False, seed=0)
    state = first_state(model.init(jax.random.key(0)), optimizer)
    found = step.lower(state, {"backbone": backbone, "graft": {}}, batch()).compile().cost_analysis()
    found = float((found[0] if isinstance(found, list) else found)["flops"])
    assert train_step(model, BATCH, TOKENS, boundary=0, cached=False).flops == pytest.approx(found, rel=0.15)


def test_full_tuning_costs_the_weights_too(built):
    _, model, _, _ = built
    live = train_step(model, BATCH, TOKENS, boundary=0, cached=False).flops
    full = train_step(model, BATCH, TOKENS, boundary=0, cached=False, everything=True).flops
    assert 1.3 < full / live < 1.6, "three forwards against two"


def test_a_temperature_is_that_of_the_hottest_sensor_or_absent(monkeypatch):
    import psutil

    from metering import thermal

    shown = {
        "core": [SimpleNamespace(current=41.0), SimpleNamespace(current=57.5)],
        "disk": [SimpleNamespace(current=30.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: shown, raising=False)
    assert thermal.sensors()() == 57.5
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)  # a virtual machine
    assert thermal.sensors() is None


COUNTED = Joules("measured_counter", 5.0, source="rapl")
MODELLED = Joules("modelled", 3.0, 1.0, 9.0, "CPU seconds")
NOTHING = Joules("unavailable", None, source="no meter")


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ((COUNTED, COUNTED), Joules("measured_counter", 10.0, source="rapl")),
        ((MODELLED, MODELLED), Joules("modelled", 6.0, 2.0, 18.0, "CPU seconds")),
        ((NOTHING, replace(NOTHING, source="no step of it")), NOTHING),
    ],
    ids=["counted", "modelled", "unavailable"],
)
def test_figures_of_one_quality_and_source_are_added(phases, expected):
    assert add_joules(*phases) == expected


def test_figures_of_different_qualities_have_no_sum_and_keep_their_parts():
    both = add_joules(COUNTED, MODELLED)
    assert (both.quality, both.value, both.low) == ("unavailable", None, None)
    assert both.parts == (COUNTED, MODELLED)
    more = add_joules(add_joules(both, COUNTED), add_joules(NOTHING, both))
    assert more.value is None
    assert {part.quality: part.value for part in more.parts} == {
        "measured_counter": 15.0,
        "modelled": 6.0,
        "unavailable": None,
    }


def test_two_meters_are_not_one():
    other = replace(COUNTED, source="nvml")
    assert add_joules(COUNTED, other).parts == (COUNTED, other)


def test_a_sum_that_cannot_be_is_stored_with_its_parts():
    both = add_joules(COUNTED, MODELLED)
    assert decode(Joules, json.loads(json.dumps(encode(both)))) == both
