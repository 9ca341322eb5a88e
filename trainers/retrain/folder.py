"""The folder in which a retraining trains: it spares work after an interruption, and nobody relies on it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own_folder(base: Path, key: str) -> Iterator[Path]:
    """A work folder named by `key` that no other process uses, with what an interrupted run left there.

    A run that was stopped for longer than its lease may still be alive in the first one; then there is a second.
    The folder is removed when the block ends well.
    """
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = base / f"{key}-{number}"
        with (base / f".{folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            folder.mkdir(exist_ok=True)
            _remove_abandoned(base, key)
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
            return


def _remove_abandoned(base: Path, key: str) -> None:
    """Removes work folders of other data that no process holds."""
    for folder in base.glob("*-*"):
        if folder.name.startswith(key) or not folder.is_dir():
            continue
        path = base / f".{folder.name}.lock"
        with path.open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)
