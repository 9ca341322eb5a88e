"""A server that loses half of its processor in mid-load: is its p95 back in its bound, and what did answers lose?

    python -m benchmarks.stress --data ../shared/data [--only sst2,emotion] [--by neighbour] [--runs 3] [--work FOLDER]

Each task trains LoRA in the top two blocks of MiniLM, from its config, with early exits at boundaries 2 and 4. A server
process holds all of them. First it answers in full: a closed loop tells its capacity, and an open loop at `--load` of
that its p95 in calm. The bound is three times that p95. Then a server with `--submodels full,exits` and this bound gets
the same load. After `CALM` seconds its quota of processor time is halved, after `HALVED` more it is whole again.

The quota is that of a control group (version 2 or 1) where this process may make one, else the server is bound to half
of its processors. The result says which. With `--by neighbour` it is other processes instead, one for each processor,
that compute as hard as they can meanwhile. Arrivals are Poisson, and a latency counts from the instant that was
intended. Its p95 is taken over windows of two seconds. It is back once it stays within the bound for four windows.
Beside it stand failed requests, the submodel at the end, the share of right answers before, during and after, and what
the server counted as given up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.graft import load_graft
from backbone.home import home, resolve_backbone, use_compilation_cache
from benchmarks.results import RawRuns, parsed, spread, write
from benchmarks.serving_http import Service, get, serving
from benchmarks.serving_load import Server
from trainers.config.load import load_config
from trainers.data.prepare import prepare
from trainers.train import train

TASKS = ("sst2", "emotion")
SETTINGS = ("plan.stages=top(2)", "curriculum.difficulty=none", "exits.boundaries=2,4", "exits.extra_error=0.05")
TOKENS = 64
BATCH_SIZES = "1,4,8,16"  # survivors of an exit move into the smallest that holds them
CALM, HALVED, RELIEF = 20.0, 40.0, 40.0  # seconds of each part
WINDOW, STAYS = 2.0, 4  # seconds of a window, and windows within the bound until the p95 is back
DWELL = 4.0  # seconds between two switches
CLIENTS = 16  # of the closed loop
PERIOD = 100_000  # microseconds of a period of a quota


@dataclass(frozen=True)
class Response:
    """One request."""

    at: float  # seconds since the start of the load at which it was to be sent
    seconds: float  # latency from then on
    status: int
    submodel: str
    right: bool


class Neighbour:
    """Other processes that compute, one for each processor, while the server has less than all of it."""

    kind = "busy neighbour"

    def __init__(self, pid: int):
        self._count, self._busy = len(os.sched_getaffinity(pid)), list[subprocess.Popen[bytes]]()

    def set(self, share: float) -> None:
        """Starts them for a share below 1, and ends them for 1."""
        self.close()
        if share < 1:
            command = [sys.executable, "-c", "while True: pass"]
            self._busy = [subprocess.Popen(command) for _ in range(self._count)]

    def close(self) -> None:
        """Ends them."""
        for process in self._busy:
            process.kill()
            process.wait()
        self._busy = []


class Quota:
    """The processor time of a server: a control group's where one can be made, else processors."""

    def __init__(self, pid: int):
        self._pid, self._processors = pid, sorted(os.sched_getaffinity(pid))
        self._group = next(
            filter(None, (self._made(Path(root)) for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu"))), None
        )
        self.kind = "affinity" if self._group is None else f"control group: {self._group.parent}"

    def _made(self, root: Path) -> Path | None:
        """Makes a group that bounds processor time, and moves the server into it; None where that is impossible."""
        group = root / f"topgraft-stress-{self._pid}"
        try:
            group.mkdir()
            if not any((group / name).exists() for name in ("cpu.max", "cpu.cfs_quota_us")):
                group.rmdir()
                return None
            (group / "cgroup.procs").write_text(str(self._pid))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            return None
        return group

    def set(self, share: float) -> None:
        """Gives the server a share of the processor time that it began with."""
        if self._group is None:
            count = max(1, round(share * len(self._processors)))
            for thread in Path(f"/proc/{self._pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), self._processors[:count])
            return
        quota = int(share * len(self._processors) * PERIOD)
        if (self._group / "cpu.max").exists():
            (self._group / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self._group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self._group / "cpu.cfs_quota_us").write_text(str(quota))

    def close(self) -> None:
        """Removes the group of a server that has ended."""
        if self._group is not None:
            with contextlib.suppress(OSError):
                self._group.rmdir()


@dataclass(frozen=True)
class Material:
    """Grafts in a folder, and labelled texts of each task."""

    folder: Path
    rows: list[tuple[str, str, str]]  # task, text, label


def material(names: Sequence[str], seed: int, work: Path) -> Material:
    """Trains the grafts that are missing, and reads the test rows."""
    folder, rows = work / f"grafts-{seed}", []
    for name in names:
        config = load_config(name, (*SETTINGS, f"seed={seed}"))
        graft = load_graft(train(config, folder / name, resume=(folder / name).exists()).graft)
        if graft.exits is None:
            raise SystemExit(f"{name}, seed {seed}: no exit is certified; give another seed")
        table = prepare(config.data, config.head.column, cache=home() / "data").table("test")
        rows += [(name, text, labels[0]) for text, labels in zip(table.texts, table.labels, strict=True)]
    order = np.random.default_rng(seed).permutation(len(rows))
    return Material(folder, [rows[i] for i in order])


async def ask(server: Server, at: float, start: float, row: tuple[str, str, str]) -> Response:
    """Asks one task about one text."""
    task, text, label = row
    status, content = await server.ask(json.dumps({"tasks": [task], "inputs": [text]}).encode())
    spent = time.perf_counter() - start - at
    if status != 200:
        return Response(at, spent, status, "", False)
    (answer,) = json.loads(content)["answers"][task]["predictions"]
    return Response(at, spent, status, answer["submodel"], answer["labels"] == [label])


async def capacity(url: str, rows: Sequence[tuple[str, str, str]], seconds: float) -> float:
    """Returns the answers a second of a closed loop."""
    server, start, count = Server(url), time.perf_counter(), 0

    async def client(first: int) -> None:
        nonlocal count
        place = first
        while time.perf_counter() - start < seconds:
            await ask(server, 0.0, start, rows[place % len(rows)])
            place, count = place + CLIENTS, count + 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    server.close()
    return count / seconds


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Returns the seconds of arrivals at a constant rate, from 0 on."""
    count = int(rate * seconds + 6 * math.sqrt(rate * seconds) + 10)
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    return [float(at) for at in times if at < seconds]


async def load(
    url: str, rows: Sequence[tuple[str, str, str]], arrivals: Sequence[float], quota: Quota | Neighbour | None = None
) -> list[Response]:
    """Sends a request at each of `arrivals`, and halves the processor in the middle where there is a quota."""
    server, start = Server(url), time.perf_counter()
    waiting: list[asyncio.Task[Response]] = []
    changes = [] if quota is None else [(CALM, 0.5), (CALM + HALVED, 1.0)]
    for number, at in enumerate(arrivals):
        await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
        while changes and at >= changes[0][0]:
            assert quota is not None
            quota.set(changes.pop(0)[1])
        waiting.append(asyncio.create_task(ask(server, at, start, rows[number % len(rows)])))
    responses = await asyncio.gather(*waiting)
    server.close()
    return list(responses)


def windows(responses: Sequence[Response], seconds: float) -> list[float]:
    """Returns the p95 of each window, in seconds; 0 for one without a request."""
    parts: list[list[float]] = [[] for _ in range(int(seconds / WINDOW))]
    for one in responses:
        parts[min(int(one.at / WINDOW), len(parts) - 1)].append(one.seconds)
    return [float(np.percentile(part, 95)) if part else 0.0 for part in parts]


def back_after(p95: Sequence[float], bound: float) -> float | None:
    """Returns the seconds from the halving until the p95 stays within the bound, to a window; None: it never does."""
    first, last = int(CALM / WINDOW), int((CALM + HALVED) / WINDOW)
    for place in range(first, last - STAYS + 1):
        if max(p95[place : place + STAYS]) <= bound:
            return (place - first) * WINDOW
    return None


@contextlib.contextmanager
def server(made: Material, log: Path, *options: str) -> Iterator[Service]:
    """Runs a server over the grafts."""
    where = ("--grafts", str(made.folder), "--max-waiting", "4096", *options)
    with serving(str(resolve_backbone("minilm")), TOKENS, log, *where, batch_sizes=BATCH_SIZES) as service:
        yield service


def measure(seed: int, options: argparse.Namespace, work: Path, runs: RawRuns) -> None:
    """Makes one run, unless there is one."""
    names = tuple(options.only.split(","))
    if (seed, options.only, options.load, options.by) in runs.done:
        return
    made = material(names, seed, work)
    with server(made, work / "calm.log") as service:
        most = asyncio.run(capacity(service.url, made.rows, 10.0))
        calm = asyncio.run(load(service.url, made.rows, poisson(options.load * most, CALM, seed)))
    bound = 3 * float(np.percentile([one.seconds for one in calm], 95))
    total = CALM + HALVED + RELIEF
    bounded = ("--submodels", "full,exits", "--p95", f"{bound:.4f}", "--dwell", str(DWELL))
    with server(made, work / "stress.log", *bounded) as service:
        quota = Quota(service.pid) if options.by == "quota" else Neighbour(service.pid)
        try:
            quota.set(1.0)
            responses = asyncio.run(load(service.url, made.rows, poisson(options.load * most, total, seed), quota))
        finally:
            quota.set(1.0)
        stats, tasks = (json.loads(get(f"{service.url}/{name}")) for name in ("stats", "tasks"))
    quota.close()
    parts = {"before": (0.0, CALM), "halved": (CALM, CALM + HALVED), "after": (CALM + HALVED, total)}
    inside = {name: [one for one in responses if low <= one.at < high] for name, (low, high) in parts.items()}
    p95 = windows(responses, total)
    run = {
        "seed": seed,
        "only": options.only,
        "load": options.load,
        "by": options.by,
        "quota": quota.kind,
        "capacity_per_second": most,
        "bound_seconds": bound,
        "back_after_seconds": back_after(p95, bound),
        "failed": sum(one.status != 200 for one in responses),
        "requests": len(responses),
        "submodel_at_the_end": stats["submodel"],
        "switches": stats["switches"],
        "given_up": stats["given_up"],
        "options": {task["task"]: task["options"] for task in tasks["tasks"]},
        "right": {name: statistics.mean(one.right for one in part) for name, part in inside.items()},
        "early": {name: statistics.mean(one.submodel != "full" for one in part) for name, part in inside.items()},
        "p95_windows": [round(value, 4) for value in p95],
    }
    runs.add(run)
    print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Says how long it took, what failed, and what answers lost while the quota was halved."""
    back = [run["back_after_seconds"] for run in runs]
    return {
        "runs": len(runs),
        "quota": sorted({run["quota"] for run in runs}),
        "back_after_seconds": back,
        "failed": sum(run["failed"] for run in runs),
        "full_at_the_end": sum(run["submodel_at_the_end"] == "full" for run in runs),
        "right_before": spread([run["right"]["before"] for run in runs]),
        "right_halved": spread([run["right"]["halved"] for run in runs]),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a benchmark whose servers have grafts that are trained first."""
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, commas between")
    parser.add_argument("--runs", type=int, default=3, help="runs, each with a seed of its own")
    parser.add_argument("--work", default=None, help="folder that keeps the trained grafts (default: none is kept)")


@contextlib.contextmanager
def work_folder(options: argparse.Namespace) -> Iterator[Path]:
    """Opens the folder of the trained grafts; child processes find the data, and programs are kept."""
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(options.work or folder)
        work.mkdir(parents=True, exist_ok=True)
        yield work


def main() -> None:
    """Runs what is missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--by", choices=("quota", "neighbour"), default="quota", help="what takes the processor away")
    parser.add_argument("--load", type=float, default=0.6, help="share of the capacity that arrives")
    add_options(parser)
    options, provenance = parsed(parser)
    runs = RawRuns("stress", ("seed", "only", "load", "by"), provenance)
    with work_folder(options) as work:
        for seed in range(options.runs):
            measure(seed, options, work, runs)
    kinds = dict.fromkeys(run["by"] for run in runs.done.values())
    parts = {kind: summary([run for run in runs.done.values() if run["by"] == kind]) for kind in kinds}
    print(write("stress", parts, provenance))


if __name__ == "__main__":
    main()
