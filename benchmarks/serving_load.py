"""The second process of `benchmarks/serving.py` and `soak_serving.py`: asks a server over HTTP. Imports no jax.

    {"cmd": "open", "url": ..., "rate": 40, "seconds": 10, "seed": 0, "kinds": {"hot": {"share": 1, "tasks": [...]}}}

Open loop: requests arrive at random instants (Poisson, `rate` a second) whatever the server does, each on a connection
of its own where none is idle. A latency is counted from the instant that was intended, so that a request that waits
because others are slow counts in full: no coordinated omission. A request is of a kind by the kinds' shares, and asks
the tasks of its kind in turn.

    {"cmd": "closed", "url": ..., "clients": 16, "seconds": 10, "kinds": {...}}

Closed loop: each client asks as soon as it is answered, which is all the server can do; also tells when each version
of a task answered first. One JSON line for each command.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np

PATIENCE = 60.0  # seconds for an answer, before it counts as failed
MAX_TOLD = 5  # answers other than 200 that are quoted


class Server:
    """Kept connections to one server."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of `POST /predict`; 0 and the reason where no answer came."""
        try:
            return await asyncio.wait_for(self._ask(body), PATIENCE)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return 0, repr(error).encode()

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        reader, writer = connection
        head = f"POST /predict HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        content = await reader.readexactly(length)
        if "connection: close" in lines:
            writer.close()
        else:
            self._idle.append(connection)
        return int(lines[0].split()[1]), content

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


class Questions:
    """Kinds of requests, drawn by their shares; the tasks and texts of a kind are taken in turn."""

    def __init__(self, command: dict[str, Any]):
        kinds = command["kinds"]
        self._names = list(kinds)
        shares = np.array([kind["share"] for kind in kinds.values()], float)
        self._shares = shares / shares.sum()
        self._draw = np.random.default_rng(command.get("seed", 0))
        self._turns = {name: self._bodies(kind["tasks"], command["texts"]) for name, kind in kinds.items()}

    @staticmethod
    def _bodies(tasks: list[str], texts: list[str]) -> Iterator[bytes]:
        number = 0
        while True:
            asked = {"tasks": [tasks[number % len(tasks)]], "inputs": [texts[number % len(texts)]]}
            yield json.dumps(asked).encode()
            number += 1

    def gap(self, rate: float) -> float:
        """Seconds until the next arrival."""
        return float(self._draw.exponential(1 / rate))

    def next(self) -> tuple[str, bytes]:
        name = self._names[int(self._draw.choice(len(self._names), p=self._shares))]
        return name, next(self._turns[name])


async def open_loop(command: dict[str, Any]) -> dict[str, Any]:
    """Latencies in ms by kind, from the intended instant; statuses; how late the generator itself was at worst."""
    server, questions = Server(command["url"]), Questions(command)
    found: dict[str, list[float]] = {name: [] for name in command["kinds"]}
    statuses: Counter[str] = Counter()
    under_way: set[asyncio.Task[None]] = set()

    async def one(intended: float, name: str, body: bytes) -> None:
        status, _ = await server.ask(body)
        statuses[str(status)] += 1
        found[name].append(1e3 * (time.perf_counter() - intended))

    late, at = 0.0, time.perf_counter()
    end = at + command["seconds"]
    while (at := at + questions.gap(command["rate"])) < end:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        late = max(late, time.perf_counter() - at)
        task = asyncio.create_task(one(at, *questions.next()))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    while under_way:
        await asyncio.wait(set(under_way))
    server.close()
    return {"latencies_ms": found, "statuses": dict(statuses), "latest_sent_ms": round(1e3 * late, 2)}


async def closed_loop(command: dict[str, Any]) -> dict[str, Any]:
    """Answers a second, statuses, and the wall clock of each version's first answer by task."""
    server, questions = Server(command["url"]), Questions(command)
    statuses: Counter[str] = Counter()
    refusals: list[str] = []
    first: dict[str, dict[str, float]] = {}
    begun = time.perf_counter()
    end = begun + command["seconds"]

    async def client() -> None:
        while time.perf_counter() < end:
            status, content = await server.ask(questions.next()[1])
            statuses[str(status)] += 1
            if status != 200 and len(refusals) < MAX_TOLD:
                refusals.append(f"{status}: {content[:300].decode(errors='replace')}")
            if status == 200:
                for task, answer in json.loads(content)["answers"].items():
                    first.setdefault(task, {}).setdefault(answer["version"], time.time())

    await asyncio.gather(*(client() for _ in range(command["clients"])))
    spent = time.perf_counter() - begun
    server.close()
    return {
        "answers_per_second": statuses["200"] / spent,
        "statuses": dict(statuses),
        "refusals": refusals,
        "first": first,
    }


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        run = open_loop if command["cmd"] == "open" else closed_loop
        print(json.dumps(asyncio.run(run(command))), flush=True)


if __name__ == "__main__":
    main()
