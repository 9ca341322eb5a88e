"""Files that are whole or absent: a folder is written beside its place, synced, then renamed into it.

What is written lies beside its place as `.NAME.tmp-ID`, and its writer holds a lock on it. The next writer of the same
place removes what no living writer holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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
    with _written(path, content) as temporary:
        temporary.replace(path)
    _fsync(path.parent)


def write_named(option: str, path: Path, text: str) -> None:
    """Writes a text, as `write_durable` does, to the file that an option names; raises InputError for a wrong place."""
    try:
        write_durable(path, text.encode())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        remedy = "name a file in a folder that is there, and that you may write to"
        raise InputError(f"{option}: {path}: cannot be written: {error.strerror}; {remedy}") from error


@contextlib.contextmanager
def _written(path: Path, content: bytes | memoryview) -> Iterator[Path]:
    """Yields a file beside `path` with this content on disk. The block gives it its name."""
    temporary = _beside(path)
    try:
        remove_abandoned(path)
        with _locked_file(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            yield temporary
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say where it is full
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Returns a new name for what lies beside `path` until it is whole."""
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def _locked_file(path: Path) -> Iterator[io.BufferedWriter]:
    """Opens a new file and holds its lock; another writer may have removed it before the lock was there."""
    while True:
        with path.open("wb") as file:
            _lock(file.fileno())
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Makes a new folder and holds its lock."""
    while True:
        path.mkdir()  # with the rights that the umask leaves, so that a group may share a store
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for an abandoned one, before it was locked
            continue
        try:
            _lock(descriptor)
            if path.exists():
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Takes the lock of a file; some file systems have none, and then nobody can take it for abandoned either."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises OSError about `path` where a library in the block tells by an exception of its own that a disk failed."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:  # safetensors, tensorstore, array_record and others have one each
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


def remove_abandoned(path: Path) -> None:
    """Removes what killed writers of the file or folder `path` left beside it.

    A former version of a folder stays while there is no other.
    """
    start = f".{path.name}."
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        names = [entry.name.removeprefix(start) for entry in entries if entry.name.startswith(start)]
    for name in names:
        if name.startswith("tmp-"):
            _remove_unlocked(path.with_name(start + name))
        elif name.startswith("old-") and path.exists() and name.replace("old-", "tmp-", 1) not in names:
            shutil.rmtree(path.with_name(start + name), ignore_errors=True)


def _remove_unlocked(path: Path) -> None:
    """Removes a temporary file or folder, unless its writer lives."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # no link, and no wait for a pipe
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _write_all(stream: io.RawIOBase, content: memoryview) -> None:
    """Writes everything to a stream that takes as much as it can at once."""
    while len(content):
        content = content[stream.write(content) or 0 :]


def create_durable(path: Path, content: bytes) -> bool:
    """Makes a file that is whole or absent, and returns False if there was one: then it stays as it is."""
    with _written(path, content) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            if path.exists():  # a file system without hard links: two who are exactly as fast may both write
                return False
            temporary.replace(path)
    _fsync(path.parent)
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
    temporary = _beside(target)
    former = target.with_name(temporary.name.replace(f".{target.name}.tmp-", f".{target.name}.old-", 1))
    try:
        remove_abandoned(target)
        with _locked_folder(temporary):
            with disk_errors(target):
                yield temporary
            sync_tree(temporary)
            if replace and target.exists():
                target.rename(former)
            try:
                temporary.rename(target)
            except OSError as error:  # another process has made it meanwhile
                if not target.exists():
                    raise
                raise InputError(f"{target} exists already; remove it or choose another place") from error
        _fsync(target.parent)
        remove_abandoned(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
