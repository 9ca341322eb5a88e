"""What trains the pieces of a search: this process, several processes, or a Ray cluster; each one piece at a time.

Other processes know the search as plain data. They read the stored states of the rows, and write the states of their
trials into its folder; the process of the search alone writes pieces. This module as a script is such a process. The
first line of its standard input is the search, each further one a piece to train, which it answers with a line:

    python -m trainers.search.workers < lines.jsonl

It ends at once when its standard input does, so that no process of a search that was killed goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.records import decode, encode
from metering.window import cpu_seconds
from trainers.config import TrainConfig
from trainers.retrain.configs import start_child
from trainers.runs.cluster import Here, connected, here
from trainers.runs.run import Run
from trainers.search.pieces import Piece
from trainers.search.records import Folder
from trainers.search.shared import FULL_DISK, Shared, Trial
from trainers.search.space import Points, Settings, point_of
from trainers.search.trials import tried

log = logging.getLogger(__name__)

Executor = Literal["processes", "ray"]


@dataclass(frozen=True)
class Searched:
    """A search, as another process is told of it."""

    config: TrainConfig
    points: tuple[Settings, ...]  # settings of each trial, in order
    workdir: str


@dataclass(frozen=True)
class Job:
    """A piece to train."""

    point: str  # id
    rung: int
    expected: float  # predicted CPU seconds of the whole training


@dataclass(frozen=True)
class Answer:
    """A trained piece, or why there is none."""

    piece: Piece | None
    lost: str = ""  # why the disk has no room for it
    refused: str = ""  # why the input is bad
    cpu_seconds: float = 0.0  # spent by another process since its last answer, or its start
    rows: int = 0  # computed by another process since then


class Trainers(Protocol):
    """What trains pieces."""

    @property
    def width(self) -> int:
        """Returns the number of pieces at a time."""

    def submit(self, job: Job) -> Future[Answer]:
        """Begins to train a piece."""


def trained(trial: Trial, job: Job, shared: Shared, folder: Folder) -> Answer:
    """Trains a piece; what a full disk loses is an answer too."""
    try:
        return Answer(tried(trial, job.rung, shared, folder, job.expected))
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        return Answer(None, lost=str(error))


@dataclass(frozen=True, eq=False)
class InThisProcess:
    """Trains one piece at a time, in the process of the search."""

    trials: Mapping[str, Trial]
    shared: Shared
    folder: Folder
    width: int = 1

    def submit(self, job: Job) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(trained(self.trials[job.point], job, self.shared, self.folder))
        return future


class Session:
    """Another process of a search, between its pieces. Takes and gives plain data, as Ray does."""

    def __init__(self, searched: Mapping[str, Any], surroundings: Mapping[str, Any] | None = None):
        if surroundings is not None:
            decode(Here, dict(surroundings)).enter()
        search = decode(Searched, dict(searched))
        workdir = Path(search.workdir)
        self._shared, self._folder = Shared(Run(workdir, known_answers=ready_to_compute().verdict)), Folder(workdir)
        points = Points(tuple(point_of(settings, search.config) for settings in search.points))
        trials, _ = self._shared.trials(points)
        self._shared.fill(trials)
        self._trials = {trial.point.id: trial for trial in trials}
        self._cpu_seconds, self._rows = 0.0, 0  # of the answers so far

    def train(self, values: Mapping[str, Any]) -> Any:
        """Trains the piece of a job; returns an answer."""
        job = decode(Job, dict(values))
        try:
            answer = trained(self._trials[job.point], job, self._shared, self._folder)
        except InputError as error:
            answer = Answer(None, refused=str(error))
        spent, rows = cpu_seconds(), self._shared.run.computed.rows
        answer = replace(answer, cpu_seconds=spent - self._cpu_seconds, rows=rows - self._rows)
        self._cpu_seconds, self._rows = spent, rows
        return encode(answer)


class Worker(Protocol):
    """Another process, as the search sees it."""

    def ask(self, job: Job) -> Answer:
        """Returns the answer; raises ChildProcessError where the process ends before it."""


class ChildProcess:
    """A process on this machine, started for its first piece; one that ended is started again for the next."""

    def __init__(self, searched: Any):
        self._searched, self._closed = json.dumps(searched), False
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Job) -> Answer:
        if self._closed:
            raise ChildProcessError("the search has ended")
        if self._process is None:
            self._process = start_child("trainers.search.workers")
            self._write(self._searched)
        self._write(json.dumps(encode(job)))
        assert self._process.stdout is not None
        try:
            return decode(Answer, json.loads(self._process.stdout.readline()))
        except ValueError as error:  # no line, or half of one
            self._process.kill()
            status, self._process = self._process.wait(), None
            raise ChildProcessError(f"a process of the search ended with status {status}") from error

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its missing answer says so
            print(line, file=self._process.stdin, flush=True)

    def close(self) -> None:
        """Ends the process, and starts no other."""
        self._closed, process = True, self._process
        if process is not None:
            process.kill()
            process.wait()


class RayActor:
    """A process of a Ray cluster."""

    def __init__(self, ray: Any, searched: Any):
        self._ray, self._session, self._searched = ray, ray.remote(num_cpus=1)(Session), searched
        self._actor: Any = None

    def ask(self, job: Job) -> Answer:
        if self._actor is None:
            self._actor = self._session.remote(self._searched, encode(here()))
        try:
            return decode(Answer, self._ray.get(self._actor.train.remote(encode(job))))
        except self._ray.exceptions.RayActorError as error:
            self._actor = None
            raise ChildProcessError(f"a Ray worker of the search ended: {str(error).splitlines()[0]}") from error


class InProcesses:
    """Trains as many pieces at a time as there are other processes."""

    def __init__(self, workers: Sequence[Worker]):
        self.width = len(workers)
        self._threads = ThreadPoolExecutor(self.width)
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._idle.put(worker)

    def submit(self, job: Job) -> Future[Answer]:
        return self._threads.submit(self._asked, job)

    def _asked(self, job: Job) -> Answer:
        worker = self._idle.get()
        try:
            try:
                return worker.ask(job)
            except ChildProcessError as error:
                log.warning("%s at point %s; another one trains it", error, job.point)
                return worker.ask(job)
        except ChildProcessError as error:
            raise ChildProcessError(
                f"{error}, twice at point {job.point}; look for a lack of memory, and go on with --resume"
            ) from error
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Begins no further piece."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def trainers(
    config: TrainConfig, trials: Mapping[str, Trial], shared: Shared, folder: Folder, processes: int, executor: Executor
) -> Iterator[Trainers]:
    """Yields what trains the pieces of a search; other processes end with it, whatever they are at."""
    if processes == 1 and executor == "processes":
        yield InThisProcess(trials, shared, folder)
        return
    points = tuple(trial.point.settings for trial in trials.values())
    searched = encode(Searched(config, points, str(folder.workdir.resolve())))
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        if executor == "ray":
            ray = stack.enter_context(connected(processes))
            workers += [RayActor(ray, searched) for _ in range(processes)]
        else:
            workers += [stack.enter_context(contextlib.closing(ChildProcess(searched))) for _ in range(processes)]
        yield stack.enter_context(contextlib.closing(InProcesses(workers)))


def serve() -> None:
    """Trains the pieces of standard input, and writes an answer for each to what was standard output."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)  # the search is gone

    threading.Thread(target=read, daemon=True).start()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a script that prints must not be taken for an answer
        train = _session(lines.get())
        while True:
            print(json.dumps(train(json.loads(lines.get()))), file=answers, flush=True)


def _session(line: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns what trains pieces; input that this process refuses is the answer to each."""
    try:
        return Session(json.loads(line)).train
    except InputError as error:
        refused = encode(Answer(None, refused=str(error)))
        return lambda job: refused


if __name__ == "__main__":
    serve()
