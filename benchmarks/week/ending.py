"""The end of a week: the log tells it, and a month later nothing is left that no version names."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.week.clock import HOUR
from benchmarks.week.hours import KEEP, Week
from benchmarks.week.plan import TASKS
from registry.store import LABEL, USERS
from trainers.retrain.rows import rows_file

MANY = 10_000  # more runs and versions than a week makes
MONTH = 31 * 24 * HOUR  # seconds


def violations_at_last(week: Week) -> dict[str, Any]:
    """Returns what is wrong at the end, with counts of the log and of what is left."""
    violations, outcomes = _log(week)
    week.clock.jump(MONTH)
    for words in (("registry", "gc", "--keep", KEEP), ("registry", "audit")):
        status, said = week.tasks.verb(*words)
        if status:
            violations.append(f"{' '.join(words)} ended with {status}: {said}")
    orphans = said.get("orphans", [])
    left = _left(week)
    violations += [f"orphan: {name}" for name in (*orphans, *left)]
    return {"violations": violations, "runs": dict(outcomes), "audit": said}


def _log(week: Week) -> tuple[list[str], Counter[str]]:
    """Returns the gaps of the log, and the outcomes of all runs."""
    violations, outcomes = [], Counter[str]()
    with week.tasks.registry() as registry:
        for task in TASKS:
            log, live = registry.promotions(task), registry.live(task)
            assert live is not None
            if [entry.generation for entry in log] != list(range(1, len(log) + 1)):
                violations.append(f"{task}: the generations have gaps: {[entry.generation for entry in log]}")
            if any(one.to_version != other.from_version for one, other in pairwise(log)):
                violations.append(f"{task}: a promotion does not begin where the one before ended")
            if (log[-1].to_version, log[-1].generation) != (live.version, live.generation):
                violations.append(f"{task}: live is {live}, and the log ends with {log[-1]}")
            if not all(entry.reason and entry.actor and entry.verdict == "PASS" for entry in log):
                violations.append(f"{task}: a promotion without a reason, an actor or the verdict PASS")
            outcomes.update(str(run.outcome) for run in registry.runs(task, MANY))
    return violations, outcomes


def _left(week: Week) -> list[str]:
    """Returns the files and folders of store and home that nothing names."""
    store, named = week.tasks.store, set()
    with week.tasks.registry() as registry:
        for task in TASKS:
            versions = [version for version in registry.versions(task, MANY) if version.state == "published"]
            named |= {version.path for version in versions} | {rows_name(version.lineage) for version in versions}
    left = [str(path) for path in store.iterdir() if path.name not in named | {LABEL, USERS}]
    left += [f"{name} is missing" for name in named if not (store / name).exists()]
    left += [str(path) for path in (week.tasks.home / "retrain").rglob("*") if not path.is_dir()]
    left += [str(path) for path in store.glob("*/*.tmp-*")]
    return left


def rows_name(lineage: dict[str, Any]) -> str:
    """Returns the name of the file with the hashes of the rows of a version."""
    return rows_file(Path(), lineage["fingerprint"]["rows"]).name
