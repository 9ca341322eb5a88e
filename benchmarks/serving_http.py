"""The parts of `benchmarks/serving.py` that ask a real server process from a second one.

`promotions`: a task's versions are promoted in a registry while clients keep the device busy. `resident`: a thousand
registered grafts on 32 slots beside a server of one graft, at the same open-loop load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from adapters.artefact.manifest import (
    MANIFEST,
    TENSORS,
    Training,
    dumps,
    identity,
    read_manifest,
    sealed,
    tensor_files,
)
from adapters.artefact.write import save_graft
from adapters.graft import Graft
from backbone.trees import content_hash, unflatten
from benchmarks.peft_lora import Worker
from benchmarks.results import ROOT
from registry.database import open_registry
from registry.store import Store

LOADER = [sys.executable, "-m", "benchmarks.serving_load"]
TRAINING = Training(config={}, seeds={}, data={}, metrics={}, costs={}, versions={})
START_SECONDS = 300.0
POLL_SECONDS = 0.5
CLIENTS = 16  # of the closed loop: twice the largest batch, so that the device never waits
BATCH_SIZES = "1,8"
HOT = 16  # tasks that are asked all the time; half of the slots at most, so that loads evict others
QUANTILES = (50, 90, 99)


def save(one: Graft, folder: Path) -> Path:
    """The graft as an artefact."""
    save_graft(folder, one.model, one.params, one.backbone, name="task", max_tokens=one.max_tokens, training=TRAINING)
    return folder


def relabelled(source: Path, target: Path, number: int) -> None:
    """Another artefact of the same tensors: its labels have other names, so its content has another id.

    A thousand grafts in a tenth of the time that their canaries would take; each is read and verified in full.
    """
    manifest = read_manifest(source)
    new = replace(manifest, labels=tuple(f"{label}-{number}" for label in manifest.labels))
    params = unflatten(dict(load_file(source / TENSORS)))
    target.mkdir(parents=True)
    for file in tensor_files(manifest):
        os.link(source / file, target / file)
    (target / MANIFEST).write_bytes(dumps(sealed(replace(new, content_id=content_hash(params, identity(new))))))


@dataclass(frozen=True)
class Service:
    """A server process that listens."""

    url: str
    pid: int


@contextlib.contextmanager
def serving(
    backbone: str, tokens: int, log: Path, *arguments: str, batch_sizes: str = BATCH_SIZES
) -> Iterator[Service]:
    """A server process for one length, by default with batches of up to 8 rows; SIGTERM ends it with status 0."""
    command = [sys.executable, "-m", "topgraft", "serve", "--backbone", backbone, "--port", "0", *arguments]
    command += ["--buckets", str(tokens), "--batch-sizes", batch_sizes, "--poll-seconds", str(POLL_SECONDS)]
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        end, found = time.monotonic() + START_SECONDS, None
        while found is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {log.read_text()}")
            time.sleep(0.1)
            found = re.search(r"serving on (http://\S+)", log.read_text())
        yield Service(found[1], process.pid)
        process.send_signal(signal.SIGTERM)
        if status := process.wait(60):
            raise RuntimeError(f"the server ended with {status}: {log.read_text()[-2000:]}")
    finally:
        process.kill()
        process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def metric(url: str, name: str) -> float:
    """A metric without labels."""
    found = re.search(rf"^topgraft_{name} (\S+)$", get(f"{url}/metrics"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{url}/metrics has no topgraft_{name}")
    return float(found[1])


def percentiles(latencies: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the longest, in ms."""
    if not latencies:
        return {"requests": 0}
    found = {f"p{q}": round(float(np.percentile(latencies, q)), 2) for q in QUANTILES}
    return {"requests": len(latencies), **found, "longest": round(max(latencies), 2)}


def promotions(make: Callable[[int], Graft], texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Versions of one task are promoted under full load, each verified on the host beforehand."""
    with tempfile.TemporaryDirectory() as name, Worker(LOADER) as loader:
        folder = Path(name)
        url = f"sqlite:///{folder / 'registry.db'}"
        registry, store = open_registry(url), Store(folder / "store")

        def promote(number: int) -> float:
            told = {"actor": "benchmark", "reason": "benchmark", "verdict": "MANUAL"}
            registry.promote("task", number, expected_generation=number - 1, **told)
            return time.time()

        for number in range(1, options.promotions + 2):
            registry.publish("task", save(make(number), folder / f"graft{number}"), store)
        promote(1)
        where = ("--registry", url, "--store", str(folder / "store"), "--slots", "4")
        with serving(options.backbone, options.tokens, folder / "log", *where) as service:
            server = service.url
            seconds = 5.0 + options.promotions * (POLL_SECONDS + 1.5)
            kinds = {"task": {"share": 1, "tasks": ["task"]}}
            found: dict[str, Any] = {}

            def load() -> None:
                found.update(
                    loader.ask(cmd="closed", url=server, clients=CLIENTS, seconds=seconds, kinds=kinds, texts=texts)
                )

            thread = threading.Thread(target=load)
            thread.start()
            time.sleep(2.0)
            promoted = {}
            for number in range(2, options.promotions + 2):
                get(f"{server}/v2/models/task/versions/{number}/ready")  # reads and verifies it: the host copy
                promoted[str(number)] = promote(number)
                time.sleep(POLL_SECONDS + 1.0)
            thread.join()
            batch = metric(server, "device_seconds_total") / metric(server, "batches_total")
            stall = metric(server, "longest_write_seconds")
        registry.close()
    first = found["first"]["task"]
    after = [1e3 * (first[number] - at) for number, at in promoted.items() if number in first]
    return {
        "promotions": options.promotions,
        "answered_by": len(first),  # versions, the first included
        "poll_ms": 1e3 * POLL_SECONDS,
        "batch_ms": round(1e3 * batch, 2),
        "first_answer_ms": percentiles(after),
        "first_answer_beyond_poll_and_batch_ms": round(max(after) - 1e3 * (POLL_SECONDS + batch), 2),
        "longest_stall_ms": round(1e3 * stall, 3),
        "answers_per_second": round(found["answers_per_second"], 2),
        "statuses": found["statuses"],
        "failed": sum(count for status, count in found["statuses"].items() if status != "200"),
    }


def resident(make: Callable[[int], Graft], texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """p99 of grafts that are in their slots, beside a server that has one graft."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        begun = time.perf_counter()
        for number in range(options.registered):
            target = folder / "many" / f"g{number:04d}"
            if number < HOT:
                save(make(number), target)
            else:
                relabelled(folder / "many" / f"g{number % HOT:04d}", target, number)
        saved = time.perf_counter() - begun
        shutil.copytree(folder / "many" / "g0000", folder / "single" / "g0000")
        envelope = {"labels": 16, "groups": [{"methods": [{"method": "lora", "rank": 8}], "slots": options.slots}]}
        (folder / "envelope.json").write_text(json.dumps(envelope))
        loader = stack.enter_context(Worker(LOADER))
        urls = {}
        for side in ("single", "many"):
            where = ("--grafts", str(folder / side), "--envelope", str(folder / "envelope.json"))
            log = folder / f"{side}.log"
            urls[side] = stack.enter_context(serving(options.backbone, options.tokens, log, *where)).url
        one = {"task": {"share": 1, "tasks": ["g0000"]}}
        closed = {"cmd": "closed", "clients": CLIENTS, "seconds": options.seconds / 2, "texts": texts, "kinds": one}
        hot = [f"g{number:04d}" for number in range(min(HOT, options.slots // 2))]
        cold = [f"g{number:04d}" for number in range(options.slots, options.registered)]
        for side, tasks in (("single", ["g0000"]), ("many", hot)):  # connections, threads and slots warm up
            kinds = {"task": {"share": 1, "tasks": tasks}}
            loader.ask(**closed | {"url": urls[side], "seconds": 2.0, "kinds": kinds})
        capacity = loader.ask(**closed | {"url": urls["single"]})["answers_per_second"]
        rate = options.load * capacity
        sides = {
            "single": ("single", {"hot": {"share": 1, "tasks": ["g0000"]}}),
            "many": ("many", {"hot": {"share": 1, "tasks": hot}}),
            # besides, one request a second for a graft that is in no slot: read, verified, another evicted
            "many_with_loads": ("many", {"hot": {"share": rate, "tasks": hot}, "cold": {"share": 1.0, "tasks": cold}}),
        }
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for segment in range(options.segments):
            for side, (server, kinds) in sides.items():
                asked = {"url": urls[server], "rate": rate, "seconds": options.seconds, "seed": segment}
                found[side].append(loader.ask(cmd="open", kinds=kinds, texts=texts, **asked))
        curve = {}
        for share in (0.3, 0.5, 0.7, 0.9):
            asked = {"url": urls["single"], "rate": share * capacity, "seconds": options.seconds, "seed": 99}
            segment_found = loader.ask(cmd="open", kinds=one, texts=texts, **asked)
            curve[str(share)] = percentiles(segment_found["latencies_ms"]["task"])
        evictions = re.findall(
            r'^topgraft_evictions_total\{cause="slots"\} (\S+)$', get(f"{urls['many']}/metrics"), re.M
        )
    return {
        "registered": options.registered,
        "slots": options.slots,
        "hot_tasks": len(hot),
        "seconds_to_save_them": round(saved, 1),
        "capacity_per_second": round(capacity, 2),
        "load": options.load,
        "arrivals_per_second": round(rate, 2),
        "ratios": {
            f"{side}_p99_to_single": round(_p99(found[side]) / _p99(found["single"]), 3)
            for side in ("many", "many_with_loads")
        },
        "latency_ms": {side: percentiles(_joined(parts, "hot")) for side, parts in found.items()},
        "cold_latency_ms": percentiles(_joined(found["many_with_loads"], "cold")),
        "segments": {side: [_told(part) for part in parts] for side, parts in found.items()},
        "evictions": float(evictions[0]) if evictions else 0.0,
        "open_loop_ms": curve,
        "failed": sum(
            count for parts in found.values() for part in parts for s, count in part["statuses"].items() if s != "200"
        ),
    }


def _p99(parts: list[dict[str, Any]]) -> float:
    return float(np.percentile(_joined(parts, "hot"), 99))


def _joined(parts: list[dict[str, Any]], kind: str) -> list[float]:
    return [latency for part in parts for latency in part["latencies_ms"].get(kind, [])]


def _told(part: dict[str, Any]) -> dict[str, Any]:
    statuses = dict(Counter(part["statuses"]))
    return {kind: percentiles(values) for kind, values in part["latencies_ms"].items()} | {
        "statuses": statuses,
        "latest_sent_ms": part["latest_sent_ms"],
    }
