"""The folder in which a retraining trains. It saves work after an interruption; correctness never depends on it."""

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
    """Yields a work folder named by `key` that no other process uses, with the files of an interrupted run.

    A run that was stopped for longer than its lease may still be alive in the first such folder; then a second one is
    used. The folder and its lock are removed when the block ends without an error.
    """
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = base / f"{key}-{number}"
        with _locked(folder) as locked:
            if not locked:
                continue
            folder.mkdir(exist_ok=True)
            _remove_abandoned(base, key)
            yield folder
            _remove(folder)
            return


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Takes the lock of a folder until the block ends; yields False if another process has it."""
    path = _lock_of(folder)
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_at(path, lock.fileno()):  # its last owner removed it after we opened it
                continue
            yield True
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Returns True if the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _remove(folder: Path) -> None:
    """Removes a locked folder, then its lock; a process that waits for the lock notices that it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _remove_abandoned(base: Path, key: str) -> None:
    """Removes the work folders of other data that no process uses."""
    for folder in base.glob("*-*"):
        if folder.name.startswith(key) or not folder.is_dir():
            continue
        with _locked(folder) as locked:
            if locked:
                _remove(folder)
