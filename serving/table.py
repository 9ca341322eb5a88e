"""The measured table of a server: what a row of each loaded graft costs and loses by each submodel, and its levels."""

from __future__ import annotations

from collections.abc import Sequence

from serving.ladder import Level, Option, ladder
from serving.residency import LoadedGraft, Served
from serving.runtime import Runtime
from serving.submodels import PRUNED, Standin
from serving.timing import options_of, timed


class Table:
    """Options of every loaded graft; the pieces of the programs are timed once, when it is made."""

    def __init__(self, runtime: Runtime, submodels: Sequence[str]):
        """Times the compiled programs between two batches; `submodels` are those that may answer."""
        self._runtime, self._submodels = runtime, tuple(submodels)
        self.timings = runtime.call(lambda: timed(runtime.programs)).result()

    def options(self, task: str) -> tuple[Option, ...]:
        """Returns the options of a task; empty while its graft is not loaded."""
        served = self._runtime.entries.get(task)
        graft = None if served is None else self._loaded(served)
        if graft is None:
            return ()
        options = self._alone(graft)
        standin = self._runtime.standins.get(task)
        pruned = None if standin is None else self._loaded(standin.served)
        if standin is not None and pruned is not None:
            options += (Option(PRUNED, self._alone(pruned)[0].seconds, standin.lost),)
        return options

    def _loaded(self, served: Served) -> LoadedGraft | None:
        return self._runtime.residency.loaded(served.content_id)

    def _alone(self, graft: LoadedGraft) -> tuple[Option, ...]:
        """Returns the options that a graft has by itself."""
        runtime = self._runtime
        exits = runtime.usable_exits(graft) if "exits" in self._submodels else None
        return options_of(self.timings, runtime.programs, graft.group, exits)

    def standins(self) -> dict[str, Standin]:
        """Returns the pruned graft of each task that has one: loaded, served, and scored on the same rows."""
        if PRUNED not in self._submodels:
            return {}
        entries = self._runtime.entries
        loaded = {task: graft for task, served in entries.items() if (graft := self._loaded(served)) is not None}
        task_of = {entries[task].content_id: task for task in loaded}
        standins = {}
        for task, graft in loaded.items():
            whole = task_of.get(graft.pruned_from)
            if whole is not None and (lost := lost_between(loaded[whole], graft)) is not None:
                standins[whole] = Standin(entries[task], lost)
        return standins

    def levels(self) -> tuple[Level, ...]:
        """Returns the levels over all loaded grafts, which weigh by their rows so far; empty without any."""
        options = {task: known for task in self._runtime.entries if (known := self.options(task))}
        return ladder(options, self._runtime.rows_of) if options else ()


def lost_between(whole: LoadedGraft, pruned: LoadedGraft) -> float | None:
    """Returns what the pruned graft scores less, in the head's first metric; None where no split scored both."""
    metric = whole.head.metrics[0]
    for split in pruned.metrics:
        if metric in pruned.metrics[split] and metric in whole.metrics.get(split, {}):
            return max(0.0, whole.metrics[split][metric] - pruned.metrics[split][metric])
    return None
