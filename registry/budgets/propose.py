"""A first file of budgets, from what live versions cost today."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from backbone.errors import InputError, counted
from backbone.files import write_named
from registry.budgets.audit import manifest_of, read_records
from registry.budgets.budget import Budgets, JoulesQuality
from registry.budgets.figures import Figure, figures_of
from registry.budgets.limits import LIMITS, is_floor
from registry.database import Registry
from registry.entries import Version
from registry.store import Store

log = logging.getLogger(__name__)


def propose(registry: Registry, store: Store, file: Path, slack: float, budgets: Budgets | None = None) -> int:
    """Writes a file with a table for each task with a live version, and returns their number.

    A cost's limit is its figure times `1 + slack`, rounded up to two digits. A floor is the score, rounded down to two
    decimals. A limit without a figure is left out, and one on a percentile that no run proved. Owners are those of the
    present `budgets`. Raises InputError where the file is there already, or cannot be written, and for a `slack` that
    leaves no finite limit.
    """
    if file.exists():
        raise InputError(f"--propose: {file} is there already; name a new file and compare the two")
    if slack > 1:
        log.warning("--slack: %g leaves %g %% of room; it is a share: 0.25 leaves 25 %%", slack, 100 * slack)
    records = read_records(registry)
    parts = [f"# from what was live, with {slack:.0%} of room; tighten a line at a time\n"]
    for task, live in sorted(records.lives.items()):
        version = next(one for one in records.versions[task] if one.number == live.version)
        figures = figures_of(
            version, records.measurements.get((task, live.version), ()), manifest_of(version, live, store)
        )
        owner = budgets.of(task).owner if budgets else ""
        named = f"owner = {json.dumps(owner)}\n" if owner else ""
        lines = "".join(_lines(version, figures, slack))
        parts.append(f"[task.{json.dumps(task)}]  # version {live.version}\n{named}{lines}")
    write_named("--propose", file, "\n".join(parts))
    log.info("--propose: %s: limits of %s", file, counted(len(records.lives), "task"))
    return len(records.lives)


def _lines(version: Version, figures: dict[str, Figure], slack: float) -> Iterator[str]:
    for name in LIMITS:
        figure = figures.get(name)
        if figure is None or not figure.value:
            continue
        if name == "max_joules":
            if figure.quality not in get_args(JoulesQuality):
                continue
            yield f"joules_quality = {json.dumps(figure.quality)}\n"
        value = figure.value if figure.bound is None else max(figure.value, figure.bound)
        if math.isinf(value):
            continue
        bound = math.floor(100 * value) / 100 if is_floor(name) else _rounded_up(value * (1 + slack))
        if math.isinf(bound):
            raise InputError(f"--slack: {slack:g} of room leaves no finite {name}; give a share, as 0.25")
        if bound > 0:
            yield f"{name} = {bound!r}\n"


def _rounded_up(value: float) -> float:
    """Returns the least number of two digits that is at least `value`; infinity is its own."""
    if math.isinf(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
