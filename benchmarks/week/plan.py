"""What happens in which hour: the changes of rows, the corruptions among them, and what befalls the machines."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.tiny import rows
from tests.trainers.retrain.corruptions import CORRUPTIONS, HARMLESS, Row, Rows

TASKS = tuple(f"task{number:02d}" for number in range(20))
EACH_HOUR = 2  # tasks with new rows: one in ten
SHARES = (1.0, 0.2)  # shares of the new rows that a corruption spoils
FIRST, NEW, MANY = 900, 300, 1200  # rows of a task at first, rows that come in, rows from which on the oldest go
PLAIN = "rows of the hour"

# events by the share of the week at which each comes
EVENTS: dict[float, str] = {
    0.08: "restart",
    0.14: "full disk",
    0.20: "clock forwards",
    0.26: "emptied mount",
    0.32: "stale replica",
    0.38: "killed run",
    0.44: "killed server",
    0.50: "replaced trunk",
    0.56: "clock backwards",
    0.62: "lost database",
    0.68: "restart",
    0.74: "full disk",
    0.80: "stale replica",
    0.86: "emptied mount",
    0.92: "clock forwards",
    0.97: "killed server",
}
QUIET = ("stale replica", "replaced trunk")  # events of hours without a corruption
REPLICA = 3  # hours by which a replica is behind


@dataclass(frozen=True)
class Planned:
    """New rows of a task in an hour."""

    task: str
    kind: str  # corruption or harmless
    name: str  # of the change in tests/trainers/retrain/corruptions.py
    share: float  # of the new rows that it spoils; 1.0 where it spoils none


def events(hours: int) -> dict[int, str]:
    """Returns the event of each hour that has one; a short trial has all that fit."""
    placed: dict[int, str] = {}
    for share, event in EVENTS.items():
        at = max(1, round(share * hours))
        if at not in placed and at < hours:
            placed[at] = event
    return placed


def snapshots(hours: int) -> set[int]:
    """Returns the hours at whose beginning a replica is taken."""
    return {max(1, at - REPLICA) for at, event in events(hours).items() if event == "stale replica"}


def changes(hours: int) -> list[list[Planned]]:
    """Returns the changes of each hour: every corruption at both shares, every harmless change, and plain new rows."""
    draw = random.Random(17)
    bad = [(name, share) for share in SHARES for name in CORRUPTIONS]
    good = list(HARMLESS)
    draw.shuffle(bad)
    draw.shuffle(good)
    waiting, harmless, happens = iter(bad), iter(good), events(hours)
    table, turn, every = [], itertools.cycle(TASKS), max(1, hours // (len(bad) + 5))
    for hour in range(hours):
        planned = []
        for place in range(EACH_HOUR):
            task = next(turn)
            due = hour and hour % every == 0 and happens.get(hour) not in QUIET and place == hour // every % 2
            spoiled = next(waiting, None) if due else None
            if spoiled is not None:
                planned.append(Planned(task, "corruption", *spoiled))
            else:
                name = next(harmless, PLAIN) if hour and hour % 2 else PLAIN
                planned.append(Planned(task, "harmless", name, 1.0))
        table.append(planned if hour else [])
    return table


def first_rows(task: str) -> Rows:
    """Returns the rows with which a task begins."""
    return list(dict.fromkeys(rows(FIRST + 100, seed=1 + TASKS.index(task))))[:FIRST]


def changed(planned: Planned, hour: int, old: Rows) -> Rows:
    """Returns the rows of a task in an hour, from those that were accepted last."""
    number = TASKS.index(planned.task)
    fresh = _fresh(old, 1000 * (hour + 1) + number)
    if planned.name == PLAIN:
        return [*(_without_oldest(old, fresh) if len(old) >= MANY else old), *fresh]
    change = (CORRUPTIONS | HARMLESS)[planned.name]
    return change(old, fresh, random.Random(hour), planned.share)


def _without_oldest(old: Rows, fresh: Rows) -> Rows:
    """Returns the rows without as many of the oldest as are fresh; those of a label that no fresh row has stay."""
    labels = {label for _, label in fresh}
    return [*(row for row in old[: len(fresh)] if row[1] not in labels), *old[len(fresh) :]]


def _fresh(old: Rows, seed: int) -> Rows:
    """Returns new rows whose texts are none of the old ones, nor twice."""
    seen = {text for text, _ in old}

    def unseen() -> Iterator[Row]:
        for text, label in rows(2 * NEW, seed=seed):
            if text not in seen:
                seen.add(text)
                yield text, label

    return list(itertools.islice(unseen(), NEW))
