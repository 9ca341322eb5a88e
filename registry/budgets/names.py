"""Names in a file of budgets that no task of a registry has: slips of the pen, or tasks to come. Imports no jax."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Collection, Iterator

from backbone.errors import InputError, nearest
from registry.budgets.budget import Budgets

log = logging.getLogger(__name__)


def unknown_names(budgets: Budgets, tasks: Collection[str]) -> Iterator[str]:
    """Yields a sentence, with file and line, for each table that bounds no task of a registry.

    Raises InputError for an exception whose task neither the registry nor a table names. A registry without tasks
    knows no names.
    """
    if not tasks:
        return
    for one in budgets.exemptions:
        if one.task not in tasks and not budgets.names(one.task):
            known = {*tasks, *budgets.tasks()}
            raise InputError(f"{one.source}: task: {one.task!r} is no task; {nearest(one.task, known)}")
    for level in budgets.levels:
        if level.kind == "task" and level.name not in tasks:
            yield f"{level.source}: {level}: the registry has no such task; {nearest(level.name, tasks)}"
        for pattern in level.members if level.kind == "group" else ():
            if not fnmatch.filter(tasks, pattern):
                yield f"{level.source}: {level}: {pattern!r} is no task of the registry; {nearest(pattern, tasks)}"


def warn_of_unknown(budgets: Budgets, tasks: Collection[str]) -> None:
    """Logs the tables that bound no task of a registry; raises InputError as `unknown_names` does."""
    for one in unknown_names(budgets, tasks):
        log.warning("%s", one)
