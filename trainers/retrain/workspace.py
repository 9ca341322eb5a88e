"""The folder in which a retraining trains: it spares work after an interruption, and nobody relies on it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own_folder(base: Path, key: str) -> Iterator[Path]:
    """A work folder named by `key` that no other process uses, with what an interrupted run left there.

    A run that was stopped for longer than its lease may still be alive in the first one; then there is a second.
    The folder and its lock are removed when the block ends well.
    """
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = base / f"{key}-{number}"
        with _locked(folder) as held:
            if not held:
                continue
            folder.mkdir(exist_ok=True)
            _remove_abandoned(base, key)
            yield folder
            _remove(folder)
            return


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the lock of a folder was free; it is held until the block ends."""
    path = _lock_of(folder)
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_at(path, lock.fileno()):  # removed by its last holder between our opening and locking it
                continue
            yield True
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _remove(folder: Path) -> None:
    """Removes a folder whose lock is held, then the lock: whoever waits for that sees that it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _remove_abandoned(base: Path, key: str) -> None:
    """Removes work folders of other data that no process holds."""
    for folder in base.glob("*-*"):
        if folder.name.startswith(key) or not folder.is_dir():
            continue
        with _locked(folder) as held:
            if held:
                _remove(folder)
