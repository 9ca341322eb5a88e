"""One hour after the other: rows come, something happens, `retrain --all` runs, and everything is judged."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import topgraft
from backbone.storage import Backbone, load_backbone
from benchmarks.week import plan
from benchmarks.week.clock import HOUR, Clock
from benchmarks.week.events import EVENTS, Event
from benchmarks.week.load import TEXTS, Answered, Load, alike
from benchmarks.week.places import Database
from benchmarks.week.plan import TASKS, Planned, changed, first_rows
from benchmarks.week.service import Service
from benchmarks.week.tasks import Tasks, read_rows, write_rows
from benchmarks.week.volume import Volume
from registry.entries import Live

FOLLOWED = 90.0  # seconds in which a server follows what is live
DAY = 24
KEEP = "5"  # newest versions of a task that the daily gc keeps


class Week:
    """A week on one database; its file holds what was lived through."""

    def __init__(self, folder: Path, clock: Clock, database: Database, hours: int):
        self.folder, self.clock, self.database = folder, clock, database
        self.tasks = Tasks(folder, clock, database)
        self.volume = Volume(self.tasks.volume)
        self.load = Load()
        self.service = Service(folder, self.tasks.where, self.tasks.environment)
        self._planned, self._events = plan.changes(hours), plan.events(hours)
        self._snapshots = plan.snapshots(hours)
        self._loaded: dict[Path, Backbone] = {}
        self._file = folder / "week.json"
        self.record: dict[str, Any] = (
            json.loads(self._file.read_text())
            if self._file.exists()
            else {"start": time.time(), "hours": [], "trunk": 0, "good": {}, "replica": {}, "last": None}
        )
        self.tasks.make()

    @property
    def hour(self) -> int:
        """Returns the number of the hour that comes next."""
        return len(self.record["hours"])

    @property
    def trunk(self) -> Path:
        """Returns the trunk of the configs."""
        return self.tasks.trunks[self.record["trunk"]]

    def save(self) -> None:
        """Writes the week as far as it was lived through."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.record))
        new.replace(self._file)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Has a server and clients until the block ends, from the second hour on."""
        self.mend()
        try:
            if self.hour:
                self.begin_to_serve()
            yield
        finally:
            self.load.stop()
            self.service.kill()

    def begin_to_serve(self) -> None:
        """Starts the first server and the clients."""
        self.replace_server()
        self.load.start()

    def replace_server(self) -> None:
        """Replaces the server; the clients ask the new one as soon as it is ready."""

        def ask(url: tuple[str, int]) -> None:
            self.load.url = url

        self.service.replace(self.trunk, ask)

    def mend(self) -> None:
        """Makes good what an interrupted hour left broken."""
        self.volume.mend()
        away = self.tasks.volume / "away"
        if away.exists():
            shutil.rmtree(self.tasks.store, ignore_errors=True)
            away.rename(self.tasks.store)
        self.tasks.on_trunk(self.record["trunk"])

    def good(self, task: str) -> Path:
        """Returns the file of the rows that were accepted last."""
        return self.folder / "good" / self.record["good"][task]

    def next(self) -> dict[str, Any]:
        """Lives through an hour, and returns its line of the log."""
        hour, started, spent = self.hour, time.monotonic(), self._cpu_seconds()
        self.clock.reach(self.record["start"] + hour * HOUR)
        if hour in self._snapshots:
            self.database.keep_replica()
            self.record["replica"] = dict(self.record["good"])
        planned = {change.task: change for change in self._planned[hour]}
        before = self.tasks.lives() if hour else {}
        proposals = self._proposals(hour, planned)
        event = EVENTS[self._events.get(hour, "")]
        self.load.take()
        disturbed = event.happen(self) if hour else {}
        now = self.tasks.lives() if hour else {}
        outcomes = self.tasks.finish(self.tasks.start())
        after = self.tasks.lives()
        expected = set(planned) if hour else set(TASKS)
        expected |= self._behind() if event.lost else set(TASKS) if event.all else set()
        violations, changes = self._judged(planned, expected, now if event.lost else before, after, outcomes)
        if hour:
            event.after(self)
        else:
            self.begin_to_serve()
        violations += [f"the run in between: {task}: {text}" for task, text in disturbed.items()]
        violations += self._converged(after) if hour else []
        answered = self.load.take()
        violations += self._served(event, before, now, after, answered)
        for task in expected:
            if not any(change["task"] == task and change["kind"] == "corruption" for change in changes):
                self._accept(task, hour, proposals[task])
        if hour % DAY == DAY - 1:
            violations += self._collected()
        line = {
            "hour": hour,
            "event": event.name,
            "changes": changes,
            "promotions": _promotions(now if event.lost else before, after),
            "statuses": dict(answered.statuses),
            "not_answered": dict(answered.messages),
            "violations": [f"hour {hour} ({event.name or 'quiet'}): {text}" for text in violations],
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": {who: round(now - spent[who], 1) for who, now in self._cpu_seconds().items()},
        }
        self.record["hours"].append(line)
        self.save()
        return line

    def _cpu_seconds(self) -> dict[str, float]:
        """Returns the CPU seconds so far: of this process, of servers, and of the other processes that ended."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        servers = self.service.cpu_seconds
        ended = children.ru_utime + children.ru_stime - self.service.spent
        return {"clients and checks": time.process_time(), "servers": servers, "runs": ended}

    def _proposals(self, hour: int, planned: Mapping[str, Planned]) -> dict[str, Any]:
        """Writes the rows of each task, and returns them."""
        table = {}
        for task in TASKS:
            rows = read_rows(self.good(task)) if hour else first_rows(task)
            table[task] = changed(planned[task], hour, rows) if task in planned else rows
            write_rows(self.tasks.rows_file(task), table[task])
        return table

    def _accept(self, task: str, hour: int, rows: Any) -> None:
        name = f"{task}-{hour:03d}.csv"
        write_rows(self.folder / "good" / name, rows)
        self.record["good"][task] = name

    def _behind(self) -> set[str]:
        """Returns the tasks whose accepted rows the replica does not know."""
        return {task for task in TASKS if self.record["replica"].get(task) != self.record["good"][task]}

    def _judged(
        self,
        planned: Mapping[str, Planned],
        expected: set[str],
        before: Mapping[str, Live],
        after: Mapping[str, Live],
        outcomes: Mapping[str, Mapping[str, Any]],
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Returns what is wrong with what is live now, and the result of each change."""
        violations, changes = [], []
        for task in TASKS:
            outcome: Mapping[str, Any] = outcomes.get(task, {})
            change = planned.get(task, Planned(task, "harmless", "the first rows, or all anew", 1.0))
            moved = after.get(task) != before.get(task)
            bad = change.kind == "corruption"
            said = f"{task}: {change.kind} {change.name!r} at {change.share:.0%}: {dict(outcome)}"
            if moved and (bad or task not in expected):
                violations.append(f"promoted: {said}")
            if not moved and not bad and task in expected:
                violations.append(f"not promoted: {said}")
            status = 10 if bad else 0
            if outcome.get("exit") != status:
                violations.append(f"status {outcome.get('exit')}, not {status}: {said}")
            if task in expected:
                result = "promoted" if moved else "refused"
                changes.append(vars(change) | {"result": result, "reason": str(outcome.get("reason", ""))[:200]})
        return violations, changes

    def _converged(self, after: Mapping[str, Live]) -> list[str]:
        """Returns the tasks that the server does not answer by what is live, in time."""
        ends, waiting = time.monotonic() + FOLLOWED, set(TASKS)
        while waiting and time.monotonic() < ends:
            waiting = {task for task in waiting if self.load.once(task) != after[task].content_id}
            time.sleep(0.1 if waiting else 0.0)
        state = self.service.state() if waiting else {}
        return [f"{task}: the server does not follow: {state}" for task in sorted(waiting)]

    def _served(
        self,
        event: Event,
        before: Mapping[str, Live],
        now: Mapping[str, Live],
        after: Mapping[str, Live],
        answered: Answered,
    ) -> list[str]:
        """Returns the answers of versions that were not live in this hour, wrong ones, and requests that failed."""
        violations = [f"two answers of one version: {content}" for content in answered.unlike]
        for task, order in answered.order.items():
            states = [lives[task].content_id for lives in (before, now, after) if task in lives]
            rest = iter(states)
            if not all(content in rest for content in order):
                violations.append(f"{task}: served {order}, live were {states}")
        failed = {status: count for status, count in answered.statuses.items() if status != "200"}
        if unexpected := failed.keys() - set(event.failures):
            violations.append(
                f"requests failed: { {status: failed[status] for status in unexpected} } {dict(answered.messages)}"
            )
        return violations + self._alone(after)

    def _alone(self, after: Mapping[str, Live]) -> list[str]:
        """Returns the live versions that answer otherwise when they are loaded alone; each is asked once."""
        violations, known = [], self.record.setdefault("checked", [])
        for task, live in after.items():
            if live.content_id in known or live.content_id not in self.load.answers:
                continue
            graft = topgraft.load(self.tasks.store / live.content_id.removeprefix("sha256:"), self._loaded_trunk())
            alone = [dict(answer.probabilities) for answer in graft.predict(list(TEXTS))]
            if not alike(alone, self.load.answers[live.content_id]):
                violations.append(f"{task}: version {live.version} answers otherwise when it is loaded alone")
            known.append(live.content_id)
        return violations

    def _loaded_trunk(self) -> Backbone:
        """Returns the trunk of the configs, loaded once."""
        if self.trunk not in self._loaded:
            self._loaded[self.trunk] = load_backbone(self.trunk)
        return self._loaded[self.trunk]

    def _collected(self) -> list[str]:
        status, said = self.tasks.verb("registry", "gc", "--keep", KEEP)
        return [] if status == 0 else [f"gc ended with {status}: {said}"]


def _promotions(before: Mapping[str, Live], after: Mapping[str, Live]) -> int:
    """Returns the number of promotions between two states of the registry."""
    return sum(live.generation - (before[task].generation if task in before else 0) for task, live in after.items())
