"""Folders of the home that can be made again: when each was used last, and the removal of those that nobody uses.

    streams/ID            a tokenised corpus, or copied images; ID.partial while it is made, under the lock ID.lock
    remote/ID             what was downloaded from an object store
    stores/ID/CONTENT     an artefact of a store on an object store

The time of a folder is that of its last use. A process that reads one for longer holds a lock on it (flock, released
by the kernel however the process ends). Imports no jax.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from backbone.home import home

PLACES = {"streams": "*", "remote": "*", "stores": "*/*"}  # pattern of the folders, by the folder of the home
NAME = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{64})(\.partial)?")  # what makes them names each by a digest
DAY = 24 * 3600.0  # seconds

_held: dict[tuple[int, int], int] = {}  # descriptor of each folder that this process holds, by device and inode


def used(folder: Path, *, hold: bool = False) -> None:
    """Notes that a folder is used now; with `hold` it is not removed before this process ends."""
    with contextlib.suppress(OSError):  # a home that others may not write is not cleared by them either
        os.utime(folder)
        if not hold:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        there = os.fstat(descriptor)
        key = (there.st_dev, there.st_ino)
        try:
            if key not in _held:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                _held[key] = descriptor
        finally:
            if _held.get(key) != descriptor:
                os.close(descriptor)


def sizes() -> dict[str, int]:
    """Returns the bytes of all such folders, by the folder of the home that holds them."""
    return {
        place: sum(file.stat().st_size for folder in _folders(place) for file in folder.rglob("*") if file.is_file())
        for place in PLACES
    }


def remove_unused(days: float) -> list[str]:
    """Removes the folders that nobody has used for so many days, and returns their paths; held ones stay."""
    removed, latest = [], time.time() - days * DAY
    for folder in [folder for place in PLACES for folder in _folders(place)]:
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(folder):
            if folder.stat().st_mtime <= latest:
                gone = folder.with_name(f".{folder.name}.removed")
                shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed here
                folder.rename(gone)
                shutil.rmtree(gone)
                removed.append(str(folder))
    return removed


def _folders(place: str) -> Iterator[Path]:
    for folder in sorted((home() / place).glob(PLACES[place])):
        if NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock under which a folder is read or made; raises BlockingIOError where another holder has it."""
    path = folder.with_suffix(".lock") if folder.suffix else folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
