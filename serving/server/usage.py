"""What a server spends on answers, noted in a file that `topgraft audit --usage` reads."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from registry.budgets.usage import Served, UsageLine, append_line
from serving.server.monitoring import Metrics

log = logging.getLogger(__name__)

EVERY = 600.0  # seconds between two lines


class UsageLog:
    """Appends a line of what was spent since the last one; a full disk harms no answer, and the next line holds all."""

    def __init__(self, path: Path, metrics: Metrics):
        """Raises OSError where the file cannot be written."""
        path.open("a").close()
        self._path, self._metrics = path, metrics
        self._since, self._noted = time.time(), dict[str, Served]()

    def step(self) -> None:
        """Writes a line if it is time."""
        if time.time() - self._since >= EVERY:
            self.write()

    def write(self) -> None:
        """Writes a line now."""
        work, now = self._metrics.work, max(time.time(), self._since)  # the clock may have been set back
        totals = {
            task: Served(rows, round(work.task_cpu[task], 4), round(work.task_joules[task], 4))
            for task, rows in list(work.task_rows.items())
        }
        tasks = {task: _less(total, self._noted.get(task)) for task, total in totals.items()}
        line = UsageLine(self._since, now, self._metrics.joules().quality, {t: s for t, s in tasks.items() if s.rows})
        try:
            append_line(self._path, line)
        except OSError as error:
            log.warning("%s: what was spent is not noted yet: %s", self._path, error)
        else:
            self._since, self._noted = now, totals


def _less(total: Served, noted: Served | None) -> Served:
    """Returns what was spent since the last line."""
    if noted is None:
        return total
    cpu, joules = total.cpu_seconds - noted.cpu_seconds, total.joules - noted.joules
    return Served(total.rows - noted.rows, round(cpu, 4), round(joules, 4))
