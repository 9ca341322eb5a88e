"""Our open-loop load beside an independent generator's, on one server: httperf of Debian.

    apt-get install httperf
    python -m benchmarks.scenarios [--rate 30] [--seconds 60] [--rounds 5]

A server answers a probe on MiniLM. In each round `topgraft profile URL --scenario server` and httperf take a turn, in
changing order, each with Poisson arrivals at the same rate and the same texts. httperf 0.9 (`--period=eT`) opens
a connection for each query, and its histogram of connection lifetimes has bins of a millisecond. It waits for events in
a busy loop, which takes a whole core. So the server has the first core, and the generators have the last one. A
percentile of ours has to lie within 5 % (p50) and 10 % (p95) of httperf's, and inside the range of its rounds (p99).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, parsed, write

PERCENTILES = (50, 95, 99)
BIN_MS = 1.0  # width of httperf's bins
SETTINGS = ("adapter.method=probe", "plan.stages=all", "data.test=", "data.max_tokens=32")


@contextlib.contextmanager
def served(root: Path, buckets: str) -> Iterator[int]:
    """Trains a probe, serves it, and yields the port."""
    with (root / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows()])
    run = [sys.executable, "-m", "topgraft"]
    words = ["train", "text_classification", "--workdir", "run", "--set", "name=topics", "--set", "data.train=rows.csv"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words += [part for one in SETTINGS for part in ("--set", one)]
    subprocess.run([*run, *words, "--quiet"], cwd=root, env=environment, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--grafts", "run", "--backbone", "minilm", "--port", str(port), "--buckets", buckets]
    words += ["--batch-sizes", "1,8,32", "--quiet"]
    server = subprocess.Popen([*pinned(0), *run, *words], cwd=root, env=environment)
    try:
        ready(port)
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def pinned(place: int) -> list[str]:
    """Returns the words before a command that keep it on one of this process's cores, by its place."""
    return ["taskset", "--cpu-list", str(sorted(os.sched_getaffinity(0))[place])]


def rows() -> list[tuple[str, str]]:
    """Returns made-up texts of four labels, 3 to 12 words each."""
    words = "card payment transfer account cash refund limit pin fee rate top balance".split()  # noqa: SIM905
    return [
        (" ".join(words[(number * step + label) % len(words)] for step in range(3 + number % 10)), words[label])
        for number in range(60)
        for label in range(4)
    ]


def ready(port: int) -> None:
    """Waits until the server is ready."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready").close()
            return
        time.sleep(0.5)
    raise RuntimeError("the server does not become ready")


def ours(port: int, root: Path, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Returns percentiles in milliseconds, by `profile --scenario`."""
    words = [f"http://127.0.0.1:{port}", "--task", "run", "--scenario", "server", "--file", str(root / "rows.csv")]
    words += ["--rate", str(rate), "--seconds", str(seconds), "--seed", str(seed), "--json", "--quiet"]
    command = [*pinned(-1), sys.executable, "-m", "topgraft", "profile", *words]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    result = json.loads(done.stdout.splitlines()[-1])
    percentiles = {f"p{round(100 * one['percentile'])}": one["ms"] for one in result["latencies"]}
    return {"queries": result["queries"], "failures": result["failures"], "late_ms": result["late_ms"], **percentiles}


def httperf(program: str, port: int, root: Path, rate: float, queries: int) -> dict[str, Any]:
    """Returns the same by httperf."""
    lines = []
    for text, _ in rows():
        body = json.dumps({"tasks": ["run"], "inputs": [text]}).replace('"', '\\"')
        lines.append(f'/predict method=POST contents="{body}"\n\n')
    (root / "sessions").write_text("".join(lines))
    command = [
        *pinned(-1),
        program,
        "--server=127.0.0.1",
        f"--port={port}",
        f"--period=e{1 / rate}",
        "--timeout=30",
        "-v",
        "-v",
    ]
    command += [f"--wsesslog={queries},0,{root / 'sessions'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = int(stated(done.stdout, r"Reply status: 1xx=\d+ 2xx=(\d+)"))
    busy = stated(done.stdout, r"CPU time .*total ([\d.]+)%\)")
    return {"queries": queries, "answers": answers, "busy_percent": busy, **percentiles_of(done.stdout)}


def stated(text: str, pattern: str) -> float:
    """Returns a number that httperf states; raises RuntimeError where it does not."""
    if not (match := re.search(pattern, text)):
        raise RuntimeError(f"httperf does not state {pattern!r}:\n{text[-2000:]}")
    return float(match[1])


def percentiles_of(text: str) -> dict[str, float]:
    """Returns percentiles of httperf's histogram of connection lifetimes, with the values of a bin spread over it.

    Raises RuntimeError where the median is not the one that httperf states itself, so that the histogram was misread.
    """
    histogram = text.partition("Connection lifetime histogram")[2].partition("\n\n")[0]
    lines = [line.split() for line in histogram.splitlines()[1:]]
    bins = [(float(line[0]), int(line[1])) for line in lines if len(line) == 2]  # a colon stands for empty bins
    total, percentiles = sum(count for _, count in bins), {}
    for q in PERCENTILES:
        below, rank = 0, total * q / 100  # queries in lower bins, and up to the percentile
        for middle, count in bins:
            if below + count >= rank:
                percentiles[f"p{q}"] = middle + BIN_MS * ((rank - below) / count - 0.5)
                break
            below += count
    median = stated(text, r"Connection time \[ms\]: .*median ([\d.]+)")
    if abs(percentiles.get("p50", -BIN_MS) - median) > BIN_MS:
        raise RuntimeError(f"p50 {percentiles.get('p50')} of the histogram is not the median {median} of httperf")
    return percentiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=30.0, help="queries a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--httperf", default=shutil.which("httperf"), help="program of the other side")
    parser.add_argument("--buckets", default="16,32", help="length buckets of the server")
    parser.add_argument("--name", default="scenarios", help="name of the result file")
    options, provenance = parsed(parser)
    if not options.httperf:
        parser.error("httperf is not installed: apt-get install httperf")
    turns: dict[str, list[dict[str, Any]]] = {"topgraft": [], "httperf": []}
    with tempfile.TemporaryDirectory() as temporary, served(Path(temporary), options.buckets) as port:
        root, queries = Path(temporary), round(options.rate * options.seconds)
        for number in range(options.rounds):
            for side in sorted(turns, reverse=bool(number % 2)):
                if side == "topgraft":
                    turns[side].append(ours(port, root, options.rate, options.seconds, number))
                else:
                    turns[side].append(httperf(options.httperf, port, root, options.rate, queries))
                print(side, turns[side][-1], flush=True)
    medians = {
        side: {f"p{q}": statistics.median(one[f"p{q}"] for one in runs) for q in PERCENTILES}
        for side, runs in turns.items()
    }
    ratios = {name: medians["topgraft"][name] / value for name, value in medians["httperf"].items()}
    low, high = (limit(one["p99"] for one in turns["httperf"]) for limit in (min, max))
    content = {
        "medians_ms": medians,
        "ratios": ratios,
        "p99_of_httperf": [low, high],
        "p99_inside": low <= medians["topgraft"]["p99"] <= high,
        "queries": {side: sum(one["queries"] for one in runs) for side, runs in turns.items()},
        "turns": turns,
    }
    print(write(options.name, content, provenance))


if __name__ == "__main__":
    main()
