"""One batch with early exits: split at boundaries, answered rows left out, the survivors compacted.

The backbone runs segment by segment on the distinct inputs of the batch. At a boundary where a graft has an exit its
rows are pooled and its head is asked (on the host: [B,D] times [D,C]); who is sure is answered. What is left moves into
the smallest compiled batch that holds it. A group begins at its lowest adapted block; above, its own segments go on
in the same way. The prefix cache has no part in it: it keeps states that most rows never reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.batching import Queued
from serving.programs import Programs, cover

States = dict[int, Any]  # hidden states [U,T,D] by boundary


class EarlyBatch:
    """The state of one batch on its way up; `results` and the rows' notes are the outcome."""

    def __init__(self, programs: Programs, rows: Sequence[Queued], index: np.ndarray, mask: np.ndarray):
        """`rows` [N] are of grafts whose exits are usable; `index` int [N] is the number of each one's input.

        `mask` bool [U,T] is that of the inputs, filled to a batch size.
        """
        self.programs, self.rows, self.index, self.mask = programs, rows, index, mask
        self.results: list[np.ndarray | None] = [None] * len(rows)
        self.computed_rows = 0  # in what runs above the prefix, filling included
        self._groups = np.array([row.group for row in rows])
        self._live = np.arange(len(rows))  # rows that are neither answered nor handed to their group's programs
        self._place = np.arange(len(mask))  # of each input in the present batch
        self._waiting: list[tuple[np.ndarray, Any, np.ndarray]] = []  # rows, values on the device, where in them

    def run(self, ids: np.ndarray) -> list[np.ndarray | None]:
        """Logits of each row [N]; `ids` int32 [U,T]."""
        programs = self.programs
        state = programs.embed(ids)
        kept: States = {}
        for boundary in programs.stops:
            kept[boundary] = state
            self._ask(boundary, state)
            for group in np.unique(self._groups[self._live]).tolist():
                if boundary == programs.banks[group].start:
                    self._hand_over(group, kept)
            if not len(self._live):
                break
            wanted = {b for group in np.unique(self._groups[self._live]).tolist() for b in programs.needs[group]}
            kept = self._compacted({b: s for b, s in kept.items() if b in wanted or b == boundary})
            state = programs.block(boundary, kept[boundary], self.mask)
        for numbers, values, where in self._waiting:
            for number, value in zip(numbers.tolist(), np.asarray(values)[where], strict=True):
                self.results[number] = value
        return self.results

    def _ask(self, boundary: int, state: Any) -> None:
        """Answers the live rows that have an exit here and are sure."""
        askers = self._askers(self._live, boundary)
        if len(askers):
            pooled = np.asarray(self.programs.pool(state, self.mask))
            gone = self._leave(askers, boundary, pooled[self._place[self.index[askers]]])
            self._live = np.setdiff1d(self._live, gone)

    def _askers(self, numbers: np.ndarray, boundary: int) -> np.ndarray:
        exits = [self.rows[i].exits for i in numbers]
        return numbers[[e is not None and boundary in e.boundaries for e in exits]] if len(numbers) else numbers

    def _leave(self, numbers: np.ndarray, boundary: int, pooled: np.ndarray) -> np.ndarray:
        """The rows, of `numbers` [n], that are answered here from pooled states [n,D]."""
        gone = np.zeros(len(numbers), bool)
        kinds = {id(self.rows[i].exits): self.rows[i].exits for i in numbers}
        for key, exits in kinds.items():
            assert exits is not None
            own = np.flatnonzero([id(self.rows[i].exits) == key for i in numbers])
            logits = exits.logits(exits.boundaries.index(boundary), pooled[own])
            for place, row, sure in zip(own.tolist(), logits, exits.confident(logits).tolist(), strict=True):
                if sure:
                    gone[place] = True
                    self.results[numbers[place]] = row
                    self.rows[numbers[place]].notes["submodel"] = f"exit:{boundary}"
        return numbers[gone]

    def _compacted(self, kept: States) -> States:
        """The states of the inputs that live rows ask about, in the smallest batch that holds them."""
        alive = np.unique(self._place[self.index[self._live]])
        size = self.programs.size_for(len(alive))
        if size == len(self.mask):
            return kept
        chosen = _filled(alive, size)
        moved = np.zeros(len(self.mask), int)
        moved[alive] = np.arange(len(alive))
        self._place = moved[self._place]  # of inputs nobody asks about any more: anywhere
        self.mask = self.mask[chosen]
        return self.programs.gather(kept, chosen.astype(np.int32))

    def _hand_over(self, group: int, kept: States) -> None:
        """Runs the live rows of a group through what lies above its start."""
        own = self._live[self._groups[self._live] == group]
        self._live = np.setdiff1d(self._live, own)
        needed, done = {b: kept[b] for b in self.programs.needs[group]}, 0
        for size in cover(len(own), self.programs.sizes):
            part = own[done : done + size]
            done += size
            inputs = self._place[self.index[_filled(part, size)]]
            states = needed
            if not np.array_equal(inputs, np.arange(len(self.mask))):
                states = self.programs.gather(needed, inputs.astype(np.int32))
            self._above(group, part, states, self.mask[inputs])

    def _above(self, group: int, part: np.ndarray, states: States, mask: np.ndarray) -> None:
        """The rows `part`, in a batch with `states` [B,T,D] and `mask` [B,T], through a group's own blocks."""
        programs, splits = self.programs, self.programs.splits[group]
        slots = self._slots(part, len(mask))
        if not any(len(self._askers(part, boundary)) for boundary in splits):
            self.computed_rows += len(mask)
            self._waiting.append((part, programs.suffix(group, states, mask, slots), np.arange(len(part))))
            return
        below = programs.banks[group].start
        state, where = states[below], np.arange(len(part))
        for boundary in splits:
            self.computed_rows += len(mask)
            state, pooled = programs.segment(group, below, state, mask, slots)
            below = boundary
            askers = self._askers(part, boundary)
            if not len(askers):
                continue
            gone = self._leave(askers, boundary, np.asarray(pooled)[where[np.isin(part, askers)]])
            stays = ~np.isin(part, gone)
            part, where = part[stays], where[stays]
            if not len(part):
                return
            size = programs.size_for(len(part))
            if size < len(mask):
                chosen = _filled(where, size)
                state, mask = programs.gather({boundary: state}, chosen.astype(np.int32))[boundary], mask[chosen]
                slots, where = self._slots(part, size), np.arange(len(part))
        self.computed_rows += len(mask)
        self._waiting.append((part, programs.rest(group, state, mask, slots), where))

    def _slots(self, part: np.ndarray, size: int) -> np.ndarray:
        slots = np.zeros(size, np.int32)
        slots[: len(part)] = [self.rows[i].slot for i in part]
        return slots


def _filled(numbers: np.ndarray, size: int) -> np.ndarray:
    """`numbers` and, up to `size`, the last of them again."""
    return np.concatenate([numbers, np.repeat(numbers[-1:], size - len(numbers))])
