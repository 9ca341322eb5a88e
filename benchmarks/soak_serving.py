"""A server under load for minutes: loads, swaps and evictions without a failed request, in flat memory.

    python -m benchmarks.soak_serving [--minutes 10]

A real server process on a small backbone and a registry: `TASKS` tasks of `VERSIONS` versions share `SLOTS` slots and
a host budget that holds half of them, so that nearly every request loads one, from there or from the store, and evicts
another. A second process asks in a closed loop, half of the time one of the first ten tasks; every `SWAP_SECONDS`
another version of a task is promoted, forwards and back. The resident memory of the server is sampled once a second,
and its slope fitted to what follows the first fifth. The result says whether any request failed, and how much the
memory grew; a failure ends with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.storage import load_backbone
from backbone.trees import flatten, unflatten
from benchmarks.peft_lora import Worker
from benchmarks.results import parsed, write
from benchmarks.serving_http import LOADER, get, save, serving
from registry.database import Registry, open_registry
from registry.store import Store
from tests.tiny import make_tiny_backbone, rows

TASKS, VERSIONS, SLOTS = 40, 3, 4
OFTEN = 10  # tasks that are asked half of the time
RANK = 32  # 50 kB a graft: the host budget of 1 MB holds half of them
CLIENTS = 4
SWAP_SECONDS = 0.5
TOKENS = 48
MAX_GROWTH = 0.02  # of the resident memory, over the whole run


def published(folder: Path, backbone_path: Path) -> tuple[Registry, str]:
    """A registry with every version of every task, the first of each live."""
    import jax

    backbone = load_backbone(backbone_path)
    model = GraftModel(backbone.network, (Lora(rank=RANK),), Classification(), ("a", "b", "c"))
    start = flatten(model.init(jax.random.key(0)))
    url, store = f"sqlite:///{folder / 'registry.db'}", Store(folder / "store")
    registry = open_registry(url)
    for task in range(TASKS):
        for version in range(VERSIONS):
            draw = np.random.default_rng(1000 * task + version)
            params = {path: np.asarray(x + 0.1 * draw.normal(size=x.shape), np.float32) for path, x in start.items()}
            one = Graft(model, unflatten(params), backbone, TOKENS)
            registry.publish(f"task{task}", save(one, folder / f"graft{task}-{version}"), store)
        promote(registry, f"task{task}", 1)
    return registry, url


def promote(registry: Registry, task: str, number: int) -> None:
    live = registry.live(task)
    told = {"actor": "soak", "reason": "soak", "verdict": "MANUAL"}
    registry.promote(task, number, expected_generation=live.generation if live else 0, **told)


def slope(seconds: np.ndarray, megabytes: np.ndarray) -> dict[str, float]:
    """MB a minute by least squares, after the first fifth."""
    late = seconds >= seconds[-1] / 5
    per_second = float(np.polyfit(seconds[late], megabytes[late], 1)[0])
    middle = float(np.median(megabytes[late]))
    return {
        "mb_per_minute": round(60 * per_second, 4),
        "median_mb": round(middle, 2),
        "growth_over_run": round(per_second * float(seconds[-1]) / middle, 5),
    }


def soak(minutes: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, Worker(LOADER) as loader:
        folder = Path(name)
        backbone = make_tiny_backbone(folder / "backbone")
        registry, url = published(folder, backbone)
        where = ("--registry", url, "--store", str(folder / "store"), "--slots", str(SLOTS), "--host-mb", "1")
        with serving(str(backbone), TOKENS, folder / "log", *where) as service:
            found: dict[str, Any] = {}
            tasks = [f"task{number}" for number in range(TASKS)]
            kinds = {"often": {"share": 1, "tasks": tasks[:OFTEN]}, "seldom": {"share": 1, "tasks": tasks[OFTEN:]}}
            texts = [text for text, _ in rows(101)]
            asked = {"url": service.url, "clients": CLIENTS, "seconds": 60 * minutes, "kinds": kinds, "texts": texts}
            thread = threading.Thread(target=lambda: found.update(loader.ask(cmd="closed", **asked)))
            thread.start()
            swaps, samples = watched(service.pid, registry, thread)
            counters = [line for line in get(f"{service.url}/metrics").splitlines() if not line.startswith("#")]
        registry.close()
    kept = ("topgraft_loads_total", "topgraft_evictions_total", "topgraft_longest_write_seconds")
    seconds, megabytes = np.array(samples).T
    return {
        "minutes": minutes,
        "swaps": swaps,
        "counters": {line.split()[0]: float(line.split()[1]) for line in counters if line.startswith(kept)},
        "answers_per_second": round(found["answers_per_second"], 1),
        "statuses": found["statuses"],
        "refusals": found["refusals"],
        "failed": sum(count for status, count in found["statuses"].items() if status != "200"),
        "memory": slope(seconds, megabytes),
        "samples_mb": [round(float(value), 2) for value in megabytes[:: max(1, len(megabytes) // 100)]],
    }


def watched(pid: int, registry: Registry, load: threading.Thread) -> tuple[int, list[tuple[float, float]]]:
    """Promotes versions and samples the memory until the load ends: swaps, and (seconds, MB)."""
    process, draw = psutil.Process(pid), random.Random(0)
    begun = time.monotonic()
    swaps, samples = 0, [(0.0, process.memory_info().rss / 1e6)]
    while load.is_alive():
        time.sleep(SWAP_SECONDS)
        promote(registry, f"task{draw.randrange(TASKS)}", draw.randrange(VERSIONS) + 1)
        swaps += 1
        if swaps * SWAP_SECONDS % 1 == 0:
            samples.append((time.monotonic() - begun, process.memory_info().rss / 1e6))
    return swaps, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", default="soak_serving", help="name of the result file")
    options, provenance = parsed(parser)
    found = soak(options.minutes)
    print({key: value for key, value in found.items() if key != "samples_mb"})
    print(write(options.out, found, provenance))
    if found["failed"] or found["memory"]["growth_over_run"] > MAX_GROWTH:
        sys.exit(f"{found['failed']} requests failed; memory grew by {found['memory']['growth_over_run']:.1%}")


if __name__ == "__main__":
    main()
