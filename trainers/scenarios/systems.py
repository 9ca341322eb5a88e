"""What a scenario measures: a graft in this process, or a server behind a URL. Both answer rows by their numbers.

A query is one row, from its text to its answer: tokenisation counts. Scores are of the first answer to each row.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from adapters.graft import Graft
from backbone.errors import InputError, shown
from backbone.texts import load_json
from trainers.data.batches import Examples
from trainers.scenarios.connections import Address, Connections
from trainers.scoring.metrics import gather

PATIENCE = 60.0  # seconds for an answer, before the query counts as failed
MAX_OPEN = 64  # queries under way at a time where all of them are sent at once


class System(Protocol):
    """A system under test."""

    name: str  # folder or URL
    local: bool  # it computes in this process, so that meters of this process count it

    def warm_up(self) -> None:
        """Makes the system ready, so that the first measured query costs no more than others."""

    async def ask(self, row: int) -> float:
        """Answers one row, and returns when, by `time.perf_counter`; raises ConnectionError where no answer came."""

    async def ask_all(self, rows: Sequence[int]) -> float:
        """Answers many rows that are there from the start, and returns when the last one was answered."""

    def scores(self) -> tuple[dict[str, float], int]:
        """Returns the metrics of the first answers, and the number of rows that have one."""

    def close(self) -> None:
        """Gives back threads and connections."""


class GraftSystem:
    """A graft in this process. Queries that arrive while it computes are answered together by the next pass."""

    local = True

    def __init__(self, name: str, graft: Graft, texts: Sequence[Any], examples: Examples, *, batching: bool):
        self.name = name
        self._graft, self._texts, self._examples = graft, list(texts), examples
        self._logits: dict[int, np.ndarray] = {}
        self._queue: list[tuple[int, asyncio.Future[float], asyncio.AbstractEventLoop]] = []
        self._some, self._ended = threading.Condition(), False
        self._worker = threading.Thread(target=self._work, name="scenario", daemon=True) if batching else None
        if self._worker:
            self._worker.start()

    def _answer(self, rows: Sequence[int]) -> None:
        logits = self._graft.logits([self._texts[row] for row in rows])
        for row, values in zip(rows, logits, strict=True):
            self._logits.setdefault(row, values)

    def warm_up(self) -> None:
        """Compiles the programs of every bucket and batch size that the rows need."""
        first = {bucket: int(np.argmax(self._examples.buckets == bucket)) for bucket in set(self._examples.buckets)}
        for row in first.values():
            for size in (1, 2, 9):  # each is padded to the next size of a batch
                self._graft.logits([self._texts[row]] * size)

    async def ask(self, row: int) -> float:
        """Answers one row, beside others that wait where there is a worker."""
        if self._worker is None:
            self._answer([row])
            return time.perf_counter()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()
        with self._some:
            self._queue.append((row, future, loop))
            self._some.notify()
        return await future

    async def ask_all(self, rows: Sequence[int]) -> float:
        """Answers the rows in full batches."""
        self._answer(rows)
        return time.perf_counter()

    def _work(self) -> None:
        """Answers what waits, all of it at once, until the system is closed."""
        while True:
            with self._some:
                while not self._queue and not self._ended:
                    self._some.wait()
                waiting, self._queue = self._queue, []
            if not waiting:
                return
            try:
                self._answer([row for row, _, _ in waiting])
            except Exception as error:  # noqa: BLE001  whoever waits for the answers raises it
                for _, future, loop in waiting:
                    loop.call_soon_threadsafe(future.set_exception, error)
                continue
            answered = time.perf_counter()
            for _, future, loop in waiting:
                loop.call_soon_threadsafe(future.set_result, answered)

    def scores(self) -> tuple[dict[str, float], int]:
        """Returns the metrics of the graft's head."""
        rows = sorted(self._logits)
        logits = [self._logits[row] for row in rows]
        longest = max(len(values) for values in logits)
        stacked = np.stack([np.pad(v, [(0, longest - len(v)), *[(0, 0)] * (v.ndim - 1)]) for v in logits])
        labels = self._examples.labels[rows]
        if self._examples.labels_of_tokens:
            labels = labels[:, :longest]
        return gather(self._graft.model, stacked, labels).compute(), len(rows)

    def close(self) -> None:
        """Ends the worker."""
        with self._some:
            self._ended = True
            self._some.notify()
        if self._worker:
            self._worker.join()


class ServerSystem:
    """A task of a server, asked over kept connections."""

    local = False

    def __init__(self, name: str, address: Address, texts: Sequence[str], labels: Sequence[Sequence[str]]):
        self.name, self._task = name, address.task
        self._bodies = [json.dumps({"tasks": [address.task], "inputs": [text]}).encode() for text in texts]
        self._labels = [frozenset(row) for row in labels]
        self._answers: dict[int, frozenset[str]] = {}
        self._connections = Connections(address)

    def warm_up(self) -> None:
        """Asks one row, and raises InputError where the server does not answer it."""

        async def once() -> None:
            try:
                await self.ask(0)
            finally:
                self.close()

        try:
            asyncio.run(once())
        except OSError as error:
            raise InputError(f"{self.name}: {error}; is a `topgraft serve` there, with this task?") from error
        self._answers.clear()

    async def ask(self, row: int) -> float:
        """Asks `POST /predict`; raises ConnectionError for another status than 200, and for an unusable answer."""
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._connections.post(self._bodies[row])
        except TimeoutError as error:
            raise ConnectionError(f"no answer within {PATIENCE:g} s") from error
        if answer.status != 200:
            raise ConnectionError(f"status {answer.status}: {shown(answer.content.decode(errors='replace'))}")
        self._answers.setdefault(row, labels_in(answer.content, self._task))
        return answer.arrived

    async def ask_all(self, rows: Sequence[int]) -> float:
        """Asks the rows, `MAX_OPEN` of them at a time."""
        places = asyncio.Semaphore(MAX_OPEN)

        async def one(row: int) -> float:
            async with places:
                return await self.ask(row)

        return max(await asyncio.gather(*(one(row) for row in rows)))

    def scores(self) -> tuple[dict[str, float], int]:
        """Returns the share of rows with exactly their labels."""
        right = sum(answer == self._labels[row] for row, answer in self._answers.items())
        return {"accuracy": right / len(self._answers)}, len(self._answers)

    def close(self) -> None:
        """Closes the connections."""
        self._connections.close()


def labels_in(content: bytes, task: str) -> frozenset[str]:
    """Returns the labels of the one text in an answer; raises ConnectionError for other content."""
    try:
        labels = load_json(content)["answers"][task]["predictions"][0]["labels"]
    except (ValueError, TypeError, LookupError) as error:
        raise ConnectionError(f"no labels of {task}: {shown(content.decode(errors='replace'))}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConnectionError(f"labels of {task} are no list of names: {shown(labels)}")
    return frozenset(labels)
