"""The follower of a catalogue: a version that is promoted there is served here within one polling interval.

A new version is read, verified and seated before it takes its task's place. Until then the former version answers; it
stays if the new one is refused. If the catalogue does not answer, or is not the one that was followed
(`serving.live.standing`), the live versions stay live.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from adapters.graft import Graft
from backbone.storage import Backbone
from serving.live.catalogue import Catalogue, Entry
from serving.live.loading import load_for_serving
from serving.live.standing import FollowState
from serving.residency import Served
from serving.runtime import Runtime

log = logging.getLogger(__name__)

WARM_SECONDS = 15.0  # seconds that one new version may keep the look at the others waiting
STOP_SECONDS = 5.0  # seconds that `stop` waits for a look under way


class Follower:
    """Keeps a runtime at the live versions of a catalogue; `poll` is one step, `start` a thread of them."""

    def __init__(self, runtime: Runtime, catalogue: Catalogue, *, seconds: float = 2.0):
        self._runtime, self._catalogue, self._seconds = runtime, catalogue, seconds
        self._seen: object = None
        self._standing = FollowState()
        self._stop = threading.Event()
        self._polling = threading.Lock()
        self._thread = threading.Thread(target=self._poll_until_stopped, name="follow", daemon=True)
        self.refused: dict[str, str] = {}  # reason why the live version is not served, by task
        self.over_budget: dict[str, str] = {}  # broken limits of the served version, by task; it is served all the same
        self.unreachable: str | None = None  # reason why the catalogue did not answer last
        self.polled = 0.0  # monotonic time of the catalogue's last answer, seconds
        self.entries: dict[str, Entry] = {}  # live versions of the catalogue, by task

    def served(self, entry: Entry) -> Served:
        """Returns an entry as the runtime loads it."""
        load = loader(self._catalogue, entry, self._runtime.backbone)
        return Served(entry.task, entry.version, entry.content_id, load, entry.generation)

    def version(self, task: str, version: str) -> Served:
        """Returns a version by its number, live or not; raises InputError if there is none."""
        live = self._runtime.entries.get(task)
        if live is not None and live.version == version:
            return live
        return self.served(self._catalogue.version(task, version))

    def poll(self) -> bool:
        """Brings the runtime to the live versions, and returns whether anything changed.

        Never raises: `refused` and `unreachable` hold the reasons.
        """
        with self._polling:
            return self._poll()

    def _poll(self) -> bool:
        try:
            change = self._catalogue.change()
            same = change == self._seen and not self.refused
            lives = self.entries if same else self._catalogue.lives()
            standing = self._catalogue.standing(lives, set(self._runtime.entries))
        except Exception as error:  # noqa: BLE001 - whatever a database or disk raises: keep serving
            if self.unreachable is None:
                log.warning("the catalogue does not answer, live versions stay live: %s", error)
            self.unreachable = str(error)
            return False
        self._answered(standing)
        if same or not standing.follows:
            return False
        changed = False
        for task, entry in lives.items():
            changed |= self._adopt(task, entry)
        for task in self._runtime.entries.keys() - lives.keys() if standing.complete else ():
            self._runtime.remove(task)
            self.over_budget.pop(task, None)
            log.info("%s: no longer live", task)
            changed = True
        self.refused = {task: reason for task, reason in self.refused.items() if task in lives}
        self._seen, self.entries = change, lives
        return changed

    def _answered(self, standing: FollowState) -> None:
        self.unreachable, self.polled = None, time.monotonic()
        if standing.word != self._standing.word:
            level = logging.INFO if standing.word == "current" else logging.WARNING
            log.log(level, "the catalogue is %s: %s", standing.word, standing.reason or "followed as before")
        self._standing = standing

    def state(self) -> FollowState:
        """Returns what the catalogue is to what is served: followed, or why it is not."""
        if self.unreachable is not None:
            return FollowState("unreachable", self.unreachable, follows=False)
        return self._standing

    def _adopt(self, task: str, entry: Entry) -> bool:
        """Serves a live version if it loads; returns whether it is new."""
        former = self._runtime.entries.get(task)
        new = self.served(entry)
        if former == new:
            self.refused.pop(task, None)
            return False
        try:
            if former is not None:  # a first version is loaded when first asked for
                self._runtime.warm(new, WARM_SECONDS)
        except Exception as error:  # noqa: BLE001 - a bad artefact: the former version keeps answering
            if task not in self.refused:
                log.error("%s version %s was refused, %s stays live: %s", task, new.version, former, error)
            self.refused[task] = str(error)
            return False
        self._runtime.offer(new)
        self.refused.pop(task, None)
        self._note_budget(task, entry)
        log.info("%s: version %s is live (generation %d)", task, new.version, new.generation)
        return True

    def _note_budget(self, task: str, entry: Entry) -> None:
        """Notes and logs the limits of the team's budget that a version breaks; a budget stops no answers."""
        self.over_budget.pop(task, None)
        try:
            reason = self._catalogue.over_budget(entry)
        except Exception as error:  # noqa: BLE001 - whatever a database raises: the version is served all the same
            log.warning("%s version %s: its budget was not judged: %s", task, entry.version, error)
            return
        if reason:
            self.over_budget[task] = reason
            log.warning("over budget, served all the same: %s", reason)

    def start(self) -> None:
        """Polls in a thread until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, if it was started; one whose look at the catalogue hangs is left behind."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def _poll_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds):
            self.poll()


def loader(catalogue: Catalogue, entry: Entry, backbone: Backbone) -> Callable[[], Graft]:
    """Returns a function that reads and verifies the entry's artefact."""
    return lambda: load_for_serving(catalogue.path(entry), backbone)
