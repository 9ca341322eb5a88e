"""Whether a server can answer what is live: the state behind its probe, its page and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.live.follow import Follower
from serving.live.standing import Word
from serving.runtime import Runtime


@dataclass(frozen=True)
class Readiness:
    """What is live, and what of it can be answered."""

    tasks: int  # tasks with a live version
    unable: Mapping[str, str]  # reason by task, where no version of it can answer
    proven: bool  # some live version is loaded, or was
    following: Word  # state of the catalogue
    catalogue: str | None  # reason why it is not followed, or not whole

    @property
    def ready(self) -> bool:
        """Returns whether something that is live can be answered."""
        return self.proven

    @property
    def reason(self) -> str | None:
        """Returns why the server is not ready."""
        if self.ready:
            return None
        if not self.tasks:
            return "nothing is live"
        tried = f"none of {self.tasks} live tasks can be answered"
        return tried if len(self.unable) == self.tasks else f"no graft of {self.tasks} live tasks is loaded yet"


def readiness(runtime: Runtime, follower: Follower) -> Readiness:
    """Returns what can be answered now. One task that cannot be answered does not make the server unready."""
    unable, proven, residency = dict[str, str](), False, runtime.residency
    entries = runtime.entries
    for task, served in entries.items():
        able = residency.answers(served.content_id)
        proven |= able is True
        if able is False:
            unable[task] = residency.failed.get(served.content_id, "it was not loaded")
    state = follower.state()
    return Readiness(len(entries), unable, proven, state.word, state.reason or None)
