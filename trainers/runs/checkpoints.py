"""The whole state of a run, saved by Orbax while training goes on, and found again after a crash.

A checkpoint counts only when Orbax has committed it; a half-written one is ignored and removed. It
names the run it belongs to: resuming under another config, data or backbone is refused.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from backbone.errors import InputError
from backbone.files import disk_errors
from backbone.meshes.processes import several
from backbone.orbax import ocp, reading
from backbone.trees import Params, flatten, require_same_structure, unflatten
from trainers.config.own import OWN

log = logging.getLogger(__name__)

State = dict[str, Any]  # "live", "optimizer", "step", "sums" of a loop

FOLDER = "checkpoints"  # inside a work folder
T = TypeVar("T")


def arrays_of(state: State, best: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Returns the state as a flat dict of arrays; optimiser leaves are numbered."""
    leaves = {
        f"state.{path}": leaf for path, leaf in flatten({k: v for k, v in state.items() if k != "optimizer"}).items()
    }
    leaves |= {f"optimizer.{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(state["optimizer"]))}
    leaves |= {f"best.{path}": leaf for path, leaf in flatten(best).items()}
    return leaves | {f"frozen.{path}": leaf for path, leaf in flatten(frozen).items()}


def of_arrays(arrays: Mapping[str, Any], state: State) -> tuple[State, Params, Params]:
    """Returns (state, best, frozen) on the host from `arrays_of`; `state` gives the optimiser's structure."""
    parts = unflatten(arrays)
    leaves = [parts["optimizer"][key] for key in sorted(parts.get("optimizer", {}))]
    optimizer = jax.tree.unflatten(jax.tree.structure(state["optimizer"]), leaves)
    return {**parts["state"], "optimizer": optimizer}, parts.get("best", {}), parts.get("frozen", {})


def has_checkpoint(workdir: Path) -> bool:
    """Returns whether the run of a work folder has a checkpoint to go on from."""
    return any(path.name.isdecimal() for path in (workdir / FOLDER).glob("*"))


class Checkpoints:
    """Checkpoints of one run in one folder; the two newest are kept."""

    def __init__(self, folder: Path, identity: Mapping[str, str]):
        self._folder, self._identity = folder, dict(identity)
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(2),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with disk_errors(self._folder):  # Orbax raises the error of a save once more when it is closed
            try:
                self.wait()
            finally:
                self._checkpointer.close()

    def notes(self) -> dict[str, Any] | None:
        """Returns the notes of the newest checkpoint, or None if there is none to go on from.

        Raises InputError if the checkpoint belongs to another run, naming what differs.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None

        def load() -> dict[str, Any]:
            metadata = dict(self._checkpointer.metadata(latest.step).custom_metadata or {})
            if "identity" not in metadata or "notes" not in metadata:  # Orbax logs damage, and goes on without it
                raise ValueError("its metadata are damaged")
            return metadata

        stored = self._read(latest.step, load)
        for name, now in self._identity.items():
            before = stored["identity"].get(name, now if name == OWN else None)
            if before != now:
                raise InputError(
                    f"--resume: the run's {name} has changed ({before} then, {now} now); "
                    f"start it in another --workdir, or restore what it began with"
                )
        return dict(stored["notes"])

    def _read(self, step: int, read: Callable[[], T]) -> T:
        folder = self._folder / str(step)
        return reading(
            read, f"--resume: {folder}", "; remove that folder to go on from the checkpoint before it, if there is one"
        )

    def save(
        self,
        step: int,
        state: State,
        best: Mapping[str, Any],
        frozen: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        """Starts saving; returns when the arrays are copied, not when they are written."""
        self.wait()
        # the notes are written later, and go on changing
        metadata = {"identity": self._identity, "notes": copy.deepcopy(dict(notes))}
        arrays = arrays_of(state, best, frozen)
        # several processes write their parts; Orbax copies these before it returns
        copied = arrays if several() else jax.tree.map(np.array, jax.device_get(arrays))
        with disk_errors(self._folder):
            self._pending = self._checkpointer.save_async(step, copied, custom_metadata=metadata, overwrite=True)

    def wait(self) -> None:
        """Waits until the save in progress is on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with disk_errors(self._folder):
                pending.result()

    def restore(self, state: State, best: Mapping[str, Any], frozen: Mapping[str, Any]) -> tuple[State, Params, Params]:
        """Returns (state, best, frozen) of the newest checkpoint, on the host.

        The arguments give the expected structure. Raises InputError if the checkpoint has another one.
        """
        latest = self._checkpointer.latest
        assert latest is not None
        arrays = arrays_of(state, best, frozen)
        expected = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in arrays.items()}

        def load() -> dict[str, Any]:
            info = self._checkpointer.metadata(latest.step)
            require_same_structure(unflatten(dict(info.metadata)), unflatten(expected), "checkpoint")
            return dict(self._checkpointer.load(latest.step, expected))

        restored = of_arrays(self._read(latest.step, load), state)
        log.info("resuming from step %d", latest.step)
        return restored
