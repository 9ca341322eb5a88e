"""The result of a search as a record. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError
from trainers.runs.workdir import CONFIG, RESULT
from trainers.search.front import Candidate, break_even, savings
from trainers.search.pieces import read
from trainers.search.space import Refused


@dataclass(frozen=True)
class SearchResult:
    """The result of a search, which `--json` prints."""

    workdir: str
    name: str  # name of the task
    metric: str
    objectives: tuple[str, ...]
    recommended: str  # id of the point with the best score on the front
    candidates: tuple[Candidate, ...]  # every point that was tried
    untried: tuple[dict[str, str], ...]  # settings of the points that were not
    refused: tuple[Refused, ...]  # combinations that are no config, or do not fit
    rows: dict[str, str]  # fingerprint of each split's rows
    groups: int  # models that the points share
    rows_computed: int  # forward passes of a row that no cache had, in the process that ended the search
    predicted_cpu_seconds: float  # price of the search, before its first trial
    cpu_seconds: float  # CPU seconds that it took, in all of its processes
    budget: float  # CPU seconds allowed; 0 = no limit
    ended: str  # why it ended before its last rung; "" if it did not
    page: str  # path of search.html
    platform: str
    unchecked: tuple[str, ...] = ()  # limits of the team's budget that a search does not check
    lost: tuple[str, ...] = ()  # ids of the points that a full disk lost

    def candidate(self, identity: str) -> Candidate:
        """Returns the point of an id, or of its first digits; raises InputError."""
        matching = [one for one in self.candidates if identity and one.id.startswith(identity)]
        if len(matching) != 1:
            known = ", ".join(one.id for one in self.candidates if one.front)
            raise InputError(
                f"--choose: {identity!r} names {len(matching)} points that were tried; on the front: {known}"
            )
        return matching[0]

    def paid_back(self, choice: Candidate) -> float | None:
        """Returns the millions of predictions after which a choice has paid for the search; None: never, or not known.

        It saves against the dearest prediction among the points of the front.
        """
        known = [one for one in self.candidates if one.front and one.prediction_cpu_seconds is not None]
        if not known:
            return None
        dearest = max(known, key=lambda one: one.prediction_cpu_seconds or 0.0)
        return break_even(self.cpu_seconds, savings(choice, dearest))

    def table(self) -> str:
        """Returns the front and the best of the other points, for the terminal."""
        from trainers.search.show import table

        return table(self)


def read_result(folder: str | Path) -> SearchResult:
    """Returns the result of a search in its work folder; raises InputError where there is none."""
    path = Path(folder) / RESULT
    if not path.exists():
        state = "has not ended: go on with --resume" if (Path(folder) / CONFIG).exists() else "is no search"
        raise InputError(f"{folder}: {state}")
    return read(SearchResult, path)
