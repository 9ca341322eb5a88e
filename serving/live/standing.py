"""What a registry is to what was followed so far: its continuation, or something that must not be followed blindly.

A server keeps answering whatever a registry says. A file that was made anew, a replica that lacks the last promotions,
a store that is not mounted: each is a state of its own, and ends when what was followed is back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from registry.entries import LogPosition

log = logging.getLogger(__name__)

Word = Literal["current", "unreachable", "behind", "another_registry", "no_store", "another_store"]
WORDS: tuple[Word, ...] = get_args(Word)
KEPT = 1000  # promotions that are remembered, to know an older state of the same log


@dataclass(frozen=True)
class FollowState:
    """What the source of live versions is, and whether its live versions are taken."""

    word: Word = "current"
    reason: str = ""  # reason in words; empty while it is current
    follows: bool = True  # new live versions are taken from it

    @property
    def complete(self) -> bool:
        """Returns True if a task that the source does not name is no longer live."""
        return self.word == "current"


CURRENT = FollowState()


class History:
    """The log of a registry as far as it was followed."""

    def __init__(self) -> None:
        self._head: LogPosition | None = None
        self._known: dict[int, str] = {}  # ids of the last promotions, by position
        self._behind: LogPosition | None = None  # older state that was seen last

    def judge(self, now: LogPosition, missing: Iterable[str]) -> FollowState:
        """Returns what the registry is now; `missing` are the tasks served for which it has no live version."""
        head, names = self._head, ", ".join(sorted(missing)[:3])
        gone = FollowState("behind", f"it has no live version of {names}; they stay") if names else CURRENT
        if head is None or now == head:
            self._behind = None
            return gone
        if head.registry and now.registry != head.registry:
            if not names:
                log.warning("another registry (%s) is followed now: it has every task", now.registry[:8])
                return CURRENT
            which = f"it is registry {now.registry[:8] or 'of schema 1'}, not {head.registry[:8]} as before"
            return FollowState("another_registry", f"{which}, and has no live version of {names}", follows=False)
        if self._is_former(now, head):
            self._behind = now
            end = f"its log ends at promotion {now.position}, and {head.position} were followed"
            return FollowState("behind", f"{end}: an older copy, or emptied", follows=False)
        if now.position <= head.position:
            log.warning("the log went back from %d to %d and on: followed", head.position, now.position)
        return gone

    def _is_former(self, now: LogPosition, head: LogPosition) -> bool:
        """Returns True for a state that the registry was in before; a log that goes on from there is none."""
        if now.position >= head.position:
            return False
        known = self._known.get(now.position)
        grown = self._behind is not None and self._behind.position < now.position
        return now.position == 0 or known == now.entry or (known is None and not grown)

    def follows(self, now: LogPosition) -> bool:
        """Returns True if this is the state that was followed last."""
        return now == self._head

    def follow(self, now: LogPosition, entries: Mapping[int, str]) -> None:
        """Remembers a state that is followed; `entries` are the last promotions, if the registry knows them."""
        kept = dict(entries) or self._known
        self._known = {n: entry for n, entry in kept.items() if now.position - KEPT < n < now.position}
        self._known[now.position] = now.entry
        self._head, self._behind = now, None
