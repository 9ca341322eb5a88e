"""Files that are whole or absent: a folder is written beside its place, synced, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import InputError

BACKBONE_FILE = "backbone.json"  # description of a backbone, in its folder


def sha256_file(path: Path) -> str:
    """Returns the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Calls fsync on every file and folder below `folder`, and on itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(root) / name)
        _fsync(Path(root))


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, content: bytes | memoryview) -> None:
    """Replaces one file in one step: readers see the old bytes or the new ones. An OSError names the file.

    A link stays, and the file that it names is replaced. A device or a pipe stays too: the bytes are written to it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb", buffering=0) as stream:
            _write_all(stream, memoryview(content).cast("B"))
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say where it is full
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(stream: io.RawIOBase, content: memoryview) -> None:
    """Writes everything to a stream that takes as much as it can at once."""
    while len(content):
        content = content[stream.write(content) or 0 :]


def create_durable(path: Path, content: bytes) -> bool:
    """Makes a file that is whole or absent, and returns False if there was one: then it stays as it is."""
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")
    write_durable(temporary, content)
    try:
        path.hardlink_to(temporary)
        _fsync(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links: two who are exactly as fast may both write
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder that becomes `target` when the block ends without an error, and vanishes otherwise.

    With `replace` an existing target is renamed first and removed last. A crash at any instant then leaves one whole
    folder under one of the two names. Raises InputError for an existing target without `replace`, and for a target
    below a file.
    """
    if target.exists() and not replace:
        raise InputError(f"{target} exists already; remove it or choose another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{target}: cannot be made: {error}; choose another place") from error
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()  # with the rights that the umask leaves, so that a group may share a store
    try:
        yield temporary
        sync_tree(temporary)
        former = target.with_name(f".{target.name}.old-{os.getpid()}")
        if replace and target.exists():
            target.rename(former)
        try:
            temporary.rename(target)
        except OSError as error:  # another process has made it meanwhile
            if not target.exists():
                raise
            raise InputError(f"{target} exists already; remove it or choose another place") from error
        _fsync(target.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
