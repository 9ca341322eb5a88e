"""Processes that retrain one task after another, so that tasks of one backbone share it and its compiled programs.

A process that dies ends the task it was at; the next task gets a new one. A task whose script brings modules or
variants has a process of its own, since two scripts may give one name to different things. This module as a script is
such a process. It reads a job as JSON on each line of its standard input, and answers each with a line:

    python -m trainers.retrain.workers < jobs.jsonl
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from backbone.records import decode, encode
from trainers.retrain.attempt import attempt, reported
from trainers.retrain.configs import start_child
from trainers.retrain.outcome import Job, Outcome

MAX_TASKS = 50  # tasks of one process, which keeps what it compiled for each


class Worker:
    """A process that retrains tasks whose scripts lie in one folder; it starts with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder, self._tasks = Path(), 0

    def retrain(self, job: Job) -> Outcome:
        """Retrains a task; a process that ends without an outcome gives one with status 1."""
        folder = Path(job.config).parent
        if self._process is None or folder != self._folder or self._tasks >= MAX_TASKS:
            self.close()
            self._process, self._folder, self._tasks = start_child("trainers.retrain.workers"), folder, 0
        self._tasks += 1
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            print(json.dumps(encode(job)), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
            return decode(Outcome, json.loads(line))
        except (OSError, ValueError):  # an InputError is a ValueError
            self._process.kill()
            status = self._process.wait()
            self._process = None
            return Outcome(Path(job.config).stem, "error", 1, f"the process ended with status {status}")

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def in_processes(jobs: Sequence[Job], alone: Sequence[bool], workers: int) -> list[Outcome]:
    """Retrains every task, `workers` at a time; those for which `alone` holds each in a process that no other has."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    for _ in range(workers):
        idle.put(Worker())

    def outcome(job: Job, by_itself: bool) -> Outcome:
        # bars of several processes would overwrite each other
        quiet = replace(job, options=replace(job.options, show=False))
        worker = idle.get()
        try:
            if not by_itself:
                return worker.retrain(quiet)
            with closing(Worker()) as apart:
                return apart.retrain(quiet)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)
    try:
        return list(threads.map(outcome, jobs, alone))
    finally:
        threads.shutdown(cancel_futures=True)  # an interrupt begins no further task
        for _ in range(workers):
            idle.get().close()


def serve() -> None:
    """Retrains the jobs of standard input, and writes an outcome for each to what was standard output."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a script that prints must not be taken for an outcome
        for number, line in enumerate(sys.stdin):
            outcome = reported(attempt(decode(Job, json.loads(line)), from_start=number == 0))
            print(json.dumps(encode(outcome), ensure_ascii=False), file=answers, flush=True)


if __name__ == "__main__":
    serve()
