"""The folder in which a retraining trains. It saves work after an interruption; correctness never depends on it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from backbone.home import home


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
            remove_abandoned(base, but=key)
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


def remove_abandoned(base: Path, *, but: str | None = None) -> None:
    """Removes the work folders, and their locks, that no process uses; those named by the key `but` stay."""
    names = {path.name for path in base.glob("*-*") if path.is_dir()}
    names |= {path.name.removeprefix(".").removesuffix(".lock") for path in base.glob(".*-*.lock")}
    for name in sorted(names):
        if but is not None and name.startswith(but):
            continue
        with _locked(base / name) as locked:
            if locked:
                _remove(base / name)


def work_folders(task: str) -> Path:
    """Returns the folder of a task's work folders."""
    return home() / "retrain" / task
