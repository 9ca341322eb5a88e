"""A batch with early exits: split at boundaries; answered rows leave it, and the others move into a smaller batch.

The backbone runs segment by segment on the distinct inputs of the batch. At a boundary where a graft has an exit, its
rows are pooled and its head runs on the host ([B,D] times [D,C]). A row is answered there if the head is confident.
An out-of-scope score that is measured at such a boundary, or below, is read on the way.
The remaining inputs move into the smallest compiled batch that holds them. A group begins at its lowest adapted block;
above it, the group's own segments run in the same way. The prefix cache is not used: it keeps states that most rows
never reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters.artefact.exits import Exits
from adapters.artefact.scope import Scope
from serving.batching import Queued
from serving.programs import Programs

States = dict[int, Any]  # hidden states [U,T,D] by boundary


class EarlyBatch:
    """One batch on its way through the blocks; sets `submodel` of the rows that leave early."""

    def __init__(self, programs: Programs, rows: Sequence[Queued], index: np.ndarray, mask: np.ndarray):
        """Takes `rows` [N] of grafts with usable exits; `index` int [N] is the number of each row's input.

        `mask` bool [U,T] belongs to the inputs, filled to a batch size.
        """
        self.programs, self.rows, self.index, self.mask = programs, rows, index, mask
        self.results: list[np.ndarray | None] = [None] * len(rows)  # logits of each row
        self.computed_rows = 0  # rows computed above the prefix, filling included
        self.pooled: dict[int, np.ndarray] = {}  # pooled states [P] for the out-of-scope score, by number of the row
        self._groups = np.array([row.group for row in rows])
        self._live = np.arange(len(rows))  # rows that are neither answered nor handed to their group's programs
        self._place = np.arange(len(mask))  # place of each input in the present batch
        # rows whose values are computed on the device: their numbers, the values, their places in the values
        self._waiting: list[tuple[np.ndarray, Any, np.ndarray]] = []

    def run(self, ids: np.ndarray) -> list[np.ndarray | None]:
        """Returns the logits of each row [N]; `ids` int32 [U,T]."""
        programs = self.programs
        state = programs.embed(ids)
        states: States = {}
        for boundary in programs.stops:
            states[boundary] = state
            self._score(boundary, state)
            self._exit(boundary, state)
            for group in np.unique(self._groups[self._live]).tolist():
                if boundary == programs.banks[group].start:
                    self._hand_over(group, states)
            if not len(self._live):
                break
            needed = {b for group in np.unique(self._groups[self._live]).tolist() for b in programs.needs[group]}
            states = self._compacted({b: s for b, s in states.items() if b in needed or b == boundary})
            state = programs.block(boundary, states[boundary], self.mask)
        for numbers, values, places in self._waiting:
            for number, value in zip(numbers.tolist(), np.asarray(values)[places], strict=True):
                self.results[number] = value
        return self.results

    def _score(self, boundary: int, state: Any) -> None:
        """Keeps what the out-of-scope scores of live rows read at this boundary; no such row has left before."""
        scoped = [number for number in self._live.tolist() if self.rows[number].scope == boundary]
        for group in {self.rows[number].group for number in scoped}:
            pooled = np.asarray(self.programs.pooled(group, boundary, state, self.mask))
            for number in scoped:
                if self.rows[number].group == group:
                    self.pooled[number] = pooled[self._place[self.index[number]]]

    def _exit(self, boundary: int, state: Any) -> None:
        """Answers the live rows whose exit at this boundary is confident."""
        rows = self._with_exit(self._live, boundary)
        if len(rows):
            pooled = np.asarray(self.programs.pool(state, self.mask))
            answered = self._answer(rows, boundary, pooled[self._place[self.index[rows]]])
            self._live = np.setdiff1d(self._live, answered)

    def _with_exit(self, numbers: np.ndarray, boundary: int) -> np.ndarray:
        """Returns those of the rows `numbers` [n] whose graft has an exit at the boundary."""
        exits = [self.rows[i].exits for i in numbers]
        return numbers[[e is not None and boundary in e.boundaries for e in exits]] if len(numbers) else numbers

    def _answer(self, numbers: np.ndarray, boundary: int, pooled: np.ndarray) -> np.ndarray:
        """Answers confident rows from pooled states [n,D], and returns their numbers; `numbers` [n] are all rows."""
        answered = np.zeros(len(numbers), bool)
        kinds = {id(self.rows[i].exits): self.rows[i].exits for i in numbers}
        for key, exits in kinds.items():
            assert exits is not None
            places = np.flatnonzero([id(self.rows[i].exits) == key for i in numbers])
            logits = exits.logits(exits.boundaries.index(boundary), pooled[places])
            for place, row, confident in zip(places.tolist(), logits, exits.confident(logits).tolist(), strict=True):
                if confident:
                    answered[place] = True
                    self.results[numbers[place]] = row
                    self.rows[numbers[place]].submodel = f"exit:{boundary}"
        return numbers[answered]

    def _compacted(self, states: States) -> States:
        """Returns the states of the inputs of live rows, in the smallest batch that holds them."""
        alive = np.unique(self._place[self.index[self._live]])
        size = self.programs.size_for(len(alive))
        if size == len(self.mask):
            return states
        chosen = filled(alive, size)
        moved = np.zeros(len(self.mask), int)
        moved[alive] = np.arange(len(alive))
        self._place = moved[self._place]  # inputs without a live row get any place
        self.mask = self.mask[chosen]
        return self.programs.gather(states, chosen.astype(np.int32))

    def _hand_over(self, group: int, states: States) -> None:
        """Runs the live rows of a group through the blocks above its start."""
        rows = self._live[self._groups[self._live] == group]
        self._live = np.setdiff1d(self._live, rows)
        needed, done = {b: states[b] for b in self.programs.needs[group]}, 0
        for size in self.programs.cover(len(rows)):
            part = rows[done : done + size]
            done += size
            inputs = self._place[self.index[filled(part, size)]]
            gathered = needed
            if not np.array_equal(inputs, np.arange(len(self.mask))):
                gathered = self.programs.gather(needed, inputs.astype(np.int32))
            self._above(group, part, gathered, self.mask[inputs])

    def _above(self, group: int, part: np.ndarray, states: States, mask: np.ndarray) -> None:
        """Runs the rows `part` through a group's blocks, in a batch with `states` [B,T,D] and `mask` [B,T]."""
        programs, splits = self.programs, self.programs.splits[group]
        slots = self._slots(part, len(mask))
        if not any(len(self._with_exit(part, boundary)) for boundary in splits):
            self.computed_rows += len(mask)
            self._waiting.append((part, programs.suffix(group, states, mask, slots), np.arange(len(part))))
            return
        below = programs.banks[group].start
        state, places = states[below], np.arange(len(part))
        for boundary in splits:
            self.computed_rows += len(mask)
            state, pooled = programs.segment(group, below, state, mask, slots)
            below = boundary
            rows = self._with_exit(part, boundary)
            if not len(rows):
                continue
            answered = self._answer(rows, boundary, np.asarray(pooled)[places[np.isin(part, rows)]])
            stays = ~np.isin(part, answered)
            part, places = part[stays], places[stays]
            if not len(part):
                return
            size = programs.size_for(len(part))
            if size < len(mask):
                chosen = filled(places, size)
                state, mask = programs.gather({boundary: state}, chosen.astype(np.int32))[boundary], mask[chosen]
                slots, places = self._slots(part, size), np.arange(len(part))
        self.computed_rows += len(mask)
        self._waiting.append((part, programs.rest(group, state, mask, slots), places))

    def _slots(self, part: np.ndarray, size: int) -> np.ndarray:
        slots = np.zeros(size, np.int32)
        slots[: len(part)] = [self.rows[i].slot for i in part]
        return slots


def on_the_way(scope: Scope | None, exits: Exits, start: int) -> bool:
    """Returns whether early rows of a group that begins at `start` pass the boundary of their out-of-scope score."""
    return scope is None or scope.boundary <= min(start, *exits.boundaries)


def filled(numbers: np.ndarray, size: int) -> np.ndarray:
    """Returns `numbers`, filled to `size` with the last of them."""
    return np.concatenate([numbers, np.repeat(numbers[-1:], size - len(numbers))])
