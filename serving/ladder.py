"""Levels of a server, from a measured table of what each submodel of each task costs and loses. Imports no jax.

    ladder({"emotion": (Option("full", 2e-3, 0.0), Option("exits", 1e-3, 0.004))})

Each task has options. Only those on the lower convex hull of (seconds, lost) are used: any other is worse than a mix of
two of these. From full quality on, each level takes the step that loses least for the seconds that it saves, over all
tasks. That is the greedy order of the multiple-choice knapsack's relaxation (Kellerer et al. 2004, section 11.2): no
other choice of the same mean seconds loses less, up to one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FULL = "full"  # the submodel that every graft has


@dataclass(frozen=True)
class Option:
    """A submodel of a task, as measured on this machine."""

    submodel: str
    seconds: float  # seconds of the device for a row
    lost: float  # share of the rows that it answers worse than in full, measured on rows that nothing was fitted to


@dataclass(frozen=True)
class Level:
    """What answers each task at one level of the controller."""

    name: str
    everywhere: str  # submodel of the tasks that are not named
    submodels: Mapping[str, str] = field(default_factory=dict)  # submodel by task
    cost: float | None = None  # seconds of a mean row, as a share of those in full; None: not measured
    lost: float | None = None  # share of the rows that are answered worse than in full; None: not measured


def hull(options: Sequence[Option]) -> list[Option]:
    """Returns the first option, which is full quality, and the cheaper ones on the lower convex hull, dearest first."""
    kept = [options[0]]
    for option in sorted(options[1:], key=lambda one: (-one.seconds, one.lost)):
        if option.seconds >= kept[-1].seconds:
            continue
        while len(kept) > 1 and option.lost <= kept[-1].lost:
            kept.pop()
        while len(kept) > 1 and _price(kept[-2], kept[-1]) >= _price(kept[-2], option):
            kept.pop()
        kept.append(option)
    return kept


def _price(dear: Option, cheap: Option) -> float:
    """Returns what a step from one option to a cheaper one loses for each second that it saves."""
    return (cheap.lost - dear.lost) / (dear.seconds - cheap.seconds)


def ladder(tasks: Mapping[str, Sequence[Option]], traffic: Mapping[str, float] | None = None) -> tuple[Level, ...]:
    """Returns levels of falling cost, the first of them full quality.

    `traffic` are rows by task, by which tasks weigh; without it each weighs the same. Tasks without an entry in `tasks`
    are not measured; they answer in full above the last level.
    """
    rows = {task: 1.0 + (traffic or {}).get(task, 0.0) for task in tasks}
    total = sum(rows.values())
    weights = {task: count / total for task, count in rows.items()}
    hulls = {task: hull(options) for task, options in tasks.items()}
    chosen = {task: options[0] for task, options in hulls.items()}
    steps = [
        (_price(dear, cheap), task, cheap)
        for task, options in hulls.items()
        for dear, cheap in itertools.pairwise(options)
    ]
    whole = sum(weights[task] * option.seconds for task, option in chosen.items())
    levels = [Level(FULL, FULL, {}, 1.0, sum(weights[task] * one.lost for task, one in chosen.items()))]
    for number, (_, task, option) in enumerate(sorted(steps, key=lambda step: step[:2]), 1):
        chosen = {**chosen, task: option}
        cheaper = {name: one.submodel for name, one in chosen.items() if one.submodel != FULL}
        kinds = sorted({*cheaper.values()})
        last = number == len(steps) and len(kinds) == 1
        levels.append(
            Level(
                kinds[0] if last else f"{' and '.join(kinds)} in {len(cheaper)} of {len(tasks)} tasks",
                kinds[0] if last else FULL,
                cheaper,
                sum(weights[name] * one.seconds for name, one in chosen.items()) / whole,
                sum(weights[name] * one.lost for name, one in chosen.items()),
            )
        )
    return tuple(levels)
