"""What befalls machines in an hour, and what may follow from it by the documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.week.hours import Week

MIDDLE = 3.0  # seconds after which a run is at work
JUMP = 600  # seconds by which the clock jumps: much longer than a lease
Wrong = dict[str, str]  # what is wrong, by task


def quiet(week: Week) -> Wrong:
    """Nothing happens."""
    return {}


@dataclass(frozen=True)
class Event:
    """Something that happens before the run of the hour."""

    name: str
    happen: Callable[[Week], Wrong] = quiet
    after: Callable[[Week], Any] = quiet  # what an operator does after the run
    failures: Collection[str] = ()  # statuses that requests may get
    lost: bool = False  # the registry lost what came last
    all: bool = False  # every task is trained anew


def interrupted(week: Week, disturb: Callable[[], Any], statuses: Collection[int]) -> Wrong:
    """Disturbs a run in its middle, and returns the tasks that ended with another status than the documents say."""
    process = week.tasks.start()
    time.sleep(MIDDLE)
    disturb()
    return unexpected(week.tasks.finish(process), statuses)


def unexpected(outcomes: Mapping[str, Mapping[str, Any]], statuses: Collection[int]) -> Wrong:
    """Returns the tasks whose status is none of these."""
    return {task: str(outcome) for task, outcome in outcomes.items() if outcome["exit"] not in statuses}


def restart(week: Week) -> Wrong:
    week.replace_server()
    return {}


def kill_server(week: Week) -> Wrong:
    week.service.kill()
    week.replace_server()
    return {}


def kill_run(week: Week) -> Wrong:
    process = week.tasks.start()
    time.sleep(MIDDLE)
    process.kill()
    process.communicate()
    return {}


def full_disk(week: Week) -> Wrong:
    """Fills the disk: a run that has to write ends with status 1."""
    if not week.volume.mounted:
        return {"": "no file system could be mounted: nothing was full"}
    with week.volume.full():
        return unexpected(week.tasks.finish(week.tasks.start()), (0, 1, 10))


def emptied_mount(week: Week) -> Wrong:
    """Empties the store: a run that has to write ends with status 1, and the server says `no_store`."""
    away = week.tasks.volume / "away"
    week.tasks.store.rename(away)
    week.tasks.store.mkdir()
    wrong = unexpected(week.tasks.finish(week.tasks.start()), (0, 1))
    if not week.service.follows("no_store"):
        wrong[""] = f"the server does not say no_store: {week.service.state()}"
    if left := list(week.tasks.store.iterdir()):
        wrong["store"] = f"a run wrote into the empty mount: {left}"
    week.tasks.store.rmdir()
    away.rename(week.tasks.store)
    if not week.service.follows("current"):
        wrong[""] = f"the server does not say current: {week.service.state()}"
    return wrong


def stale_replica(week: Week) -> Wrong:
    """Hands over to a replica that lacks the last hours: the server says `behind` and goes on with what it serves."""
    position = {task: live.generation for task, live in week.tasks.lives().items()}
    week.database.fail_over()
    lacks = any(live.generation < position[task] for task, live in week.tasks.lives().items())
    if lacks and not week.service.follows("behind"):
        return {"": f"the server does not say behind: {week.service.state()}"}
    return {}


def replace_trunk(week: Week) -> Wrong:
    week.record["trunk"] = 1 - week.record["trunk"]
    week.tasks.on_trunk(week.record["trunk"])
    return {}


def lose_database(week: Week) -> Wrong:
    return interrupted(week, week.database.restart, (0, 1, 10))


def clock(seconds: int, statuses: Collection[int]) -> Callable[[Week], Wrong]:
    return lambda week: interrupted(week, lambda: week.clock.jump(seconds), statuses)


EVENTS = {
    event.name: event
    for event in (
        Event(""),
        Event("restart", restart),
        Event("killed server", kill_server, failures=("no answer",)),
        Event("killed run", kill_run),
        Event("full disk", full_disk),
        Event("emptied mount", emptied_mount),
        Event("stale replica", stale_replica, lost=True),
        Event("replaced trunk", replace_trunk, restart, all=True),
        Event("lost database", lose_database),
        Event("clock forwards", clock(JUMP, (0, 10, 75))),
        Event("clock backwards", clock(-JUMP, (0, 10))),
    )
}
