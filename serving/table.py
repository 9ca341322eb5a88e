"""The measured table of a server: what a row of each loaded graft costs and loses by each submodel, and its levels."""

from __future__ import annotations

from serving.ladder import Level, Option, ladder
from serving.runtime import Runtime
from serving.timing import options_of, timed


class Table:
    """Options of every loaded graft; the pieces of the programs are timed once, when it is made."""

    def __init__(self, runtime: Runtime):
        """Times the compiled programs, on the device thread between two batches."""
        self._runtime = runtime
        self.timings = runtime.call(lambda: timed(runtime.programs)).result()

    def options(self, task: str) -> tuple[Option, ...]:
        """Returns the options of a task; empty while its graft is not loaded."""
        runtime = self._runtime
        served = runtime.entries.get(task)
        graft = None if served is None else runtime.residency.loaded(served.content_id)
        if graft is None:
            return ()
        return options_of(self.timings, runtime.programs, graft.group, runtime.usable_exits(graft))

    def levels(self) -> tuple[Level, ...]:
        """Returns the levels over all loaded grafts, which weigh by their rows so far; empty without any."""
        options = {task: known for task in self._runtime.entries if (known := self.options(task))}
        return ladder(options, self._runtime.rows_of) if options else ()
