"""Clients that ask a server all week, and what was answered."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from benchmarks.week.plan import TASKS

TEXTS = ("bas ban bal", "dis dan fus gol", "ken lam mis nol pun", "rel san til")
CLIENTS, PAUSE = 2, 0.15  # clients, and seconds between two requests of one
NEAR = 1e-4  # greatest difference of two answers of one version


@dataclass
class Answered:
    """What the clients got since somebody last took it."""

    statuses: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)  # messages of what was not answered
    order: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # content ids by task
    unlike: list[str] = field(default_factory=list)  # versions that gave two answers to one text


class Load:
    """Closed loops that ask a random task each; all of them ask the server that was named last."""

    def __init__(self) -> None:
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._answered, self.url = Answered(), ("127.0.0.1", 0)
        self.answers: dict[str, list[dict[str, float]]] = {}  # probabilities for TEXTS, by content id
        self._changed: dict[str, float] = {}  # monotonic time at which a task's answers changed last
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(CLIENTS)]

    def start(self) -> None:
        """Begins to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for the requests under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> Answered:
        """Returns what was answered since the last call."""
        with self._lock:
            answered, self._answered = self._answered, Answered()
        return answered

    def _ask(self, number: int) -> None:
        draw = random.Random(number)
        while not self._stop.wait(PAUSE):
            self.once(draw.choice(TASKS))

    def once(self, task: str) -> str:
        """Asks a task once, and returns the content id of what answered; "" where nothing did."""
        (host, port), began = self.url, time.monotonic()
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request("POST", "/predict", json.dumps({"tasks": [task], "inputs": TEXTS}))
            response = connection.getresponse()
            status, body = str(response.status), json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self._answered.statuses["no answer"] += 1
                self._answered.messages[type(error).__name__] += 1
            time.sleep(0.2)
            return ""
        finally:
            connection.close()
        with self._lock:
            return self._note(task, status, body, began)

    def _note(self, task: str, status: str, body: dict[str, Any], began: float) -> str:
        self._answered.statuses[status] += 1
        if status != "200":
            self._answered.messages[f"{status} {body.get('error', '')}"[:200]] += 1
            return ""
        answer = body["answers"][task]
        content, texts = answer["content_id"], [one["probabilities"] for one in answer["predictions"]]
        order = self._answered.order[task]
        # an answer that was on its way while the version changed says nothing about the order
        if order[-1:] != [content] and (content not in order or began > self._changed.get(task, 0.0)):
            order.append(content)
            self._changed[task] = time.monotonic()
        if not alike(self.answers.setdefault(content, texts), texts):
            self._answered.unlike.append(content)
        return str(content)


def alike(first: list[dict[str, float]], second: list[dict[str, float]]) -> bool:
    """Returns whether probabilities by label are the same for each text, to `NEAR`."""
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(abs(one[label] - other[label]) <= NEAR for label in one)
        for one, other in zip(first, second, strict=True)
    )
