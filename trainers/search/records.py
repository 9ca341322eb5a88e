"""A search on disk: what it would try, each piece of a trial as it ends, and the state from which a trial goes on.

    search.json     what the search compares, the points, and their predicted price; written before the first trial
    trials/         one file for each piece that was trained: RUNG-POINT.json
    states/         parameters and optimiser of the points that may go on: POINT.safetensors

A piece counts once its file in `trials/` is there. The state is written before it. A search that was killed between
the two finds the state at its last step, and trains nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import encode
from backbone.texts import load_json
from backbone.trees import Params
from trainers.fitting.state import LoopState
from trainers.runs.checkpoints import State, arrays_of, of_arrays
from trainers.search.pieces import PLAN, STATES, TRIALS, Piece, SearchPlan, read, read_pieces


class Folder:
    """The files of a search."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        for name in (TRIALS, STATES):
            (workdir / name).mkdir(exist_ok=True)
        self.pieces = {(piece.rung, piece.point): piece for piece in read_pieces(workdir)}

    def plan(self) -> SearchPlan | None:
        """Returns what an interrupted search was going to try; None if it had not got so far."""
        path = self.workdir / PLAN
        return read(SearchPlan, path) if path.exists() else None

    def write_plan(self, plan: SearchPlan) -> None:
        """Stores what the search is going to try."""
        write_durable(self.workdir / PLAN, json.dumps(encode(plan), indent=1).encode())

    def add(self, piece: Piece) -> None:
        """Stores a piece, from which on it counts."""
        content = json.dumps(encode(piece)).encode()
        write_durable(self.workdir / TRIALS / f"{piece.rung}-{piece.point}.json", content)
        self.pieces[piece.rung, piece.point] = piece

    def state(self, point: str) -> StoredState:
        """Returns the stored state of a point, which may be empty."""
        return StoredState(self.workdir / STATES / f"{point}.safetensors")

    def clear_states(self) -> None:
        """Removes the states once no point goes on."""
        for path in (self.workdir / STATES).glob("*.safetensors"):
            path.unlink()


class StoredState:
    """The state of one trial between two rungs, in one file."""

    def __init__(self, path: Path):
        self._path = path

    def save(self, state: LoopState) -> None:
        """Replaces the file in one step."""
        arrays = jax.tree.map(np.asarray, jax.device_get(arrays_of(state.arrays, state.best, state.frozen)))
        arrays = {path: np.array(leaf, order="C") for path, leaf in arrays.items()}
        write_durable(self._path, save(arrays, {"notes": json.dumps(state.notes())}))

    def notes(self) -> Params | None:
        """Returns the progress as JSON values; None without a file."""
        if not self._path.exists():
            return None
        try:
            with self._path.open("rb") as stream:
                header = load_json(stream.read(int.from_bytes(stream.read(8), "little")))
            return dict(load_json(header["__metadata__"]["notes"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._path}: damaged ({error}); remove it, and the trial is trained again") from error

    def restore(self, state: State, best: Mapping[str, Any], frozen: Mapping[str, Any]) -> tuple[State, Params, Params]:
        """Returns (state, best, frozen); the arguments give the expected structure."""
        try:
            return of_arrays(load_file(self._path), state)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{self._path}: damaged ({error}); remove it, and the trial is trained again") from error
