"""Packed files, recognised by their first bytes whatever they are called, and unpacked in memory.

gzip, zstandard, bzip2, xz, and a zip archive of one file are read. Other archives, and files of other programs in place
of text, are refused with a remedy. Sources: RFC 1952 (gzip), RFC 8878 (zstandard), APPNOTE.TXT of PKWARE (zip), and the
format descriptions of bzip2 and xz.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from backbone.errors import InputError

SUFFIXES = (".gz", ".zst", ".zip", ".bz2", ".xz")  # suffixes of packed files, behind that of their content
MIN_LIMIT = 1 << 28  # bytes to which every file may unpack: 256 MiB
MAX_RATIO = 200  # unpacked bytes for each packed one, beyond `MIN_LIMIT`; text stays far below

POINTER = b"version https://git-lfs"  # first bytes of the file that Git LFS leaves in place of a large one
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_BLOCKS_OF_BZIP2 = (b"1AY&SY", b"\x17rE8P\x90")  # what follows `BZh` and a digit: a block, or the end
_REFUSED = (  # first bytes of what is no text and is not unpacked, its name, the remedy
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with `7z x`"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "packed by lz4", "unpack it with `lz4 -d`"),
    (b"\x1f\x9d", "packed by compress", "unpack it with `gzip -d`"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Microsoft Office", "save it as CSV (UTF-8)"),
    (b"%PDF-", "a PDF document", "save its text"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
    (POINTER, "a pointer of Git LFS, not the file itself", "run `git lfs pull`"),
)
_HEAD = 512  # first bytes of a file, by which it is recognised
_TAR = (257, b"ustar")  # place and bytes of the mark in a tar archive


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file, unpacked; raises InputError for one that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return unpacked(content, str(path))


def unpacked(content: bytes, where: str) -> bytes:
    """Returns what `content` is packed from, or `content` itself if it is not packed.

    Raises InputError naming `where` for a damaged file, an archive of several files, a packed file inside another, what
    is no text, and for more than `limit_of(content)` bytes.
    """
    packing = _packing(content)
    if packing:
        name, opened = packing
        with _damage(where, name):
            content = _bounded(opened, content, where, name)
        if inner := _packing(content):
            raise InputError(f"{where}: holds another packed file ({inner[0]}); unpack it once")
    for start, kind, remedy in _REFUSED:
        if content.startswith(start):
            raise InputError(f"{where}: is {kind}; {remedy}")
    place, mark = _TAR
    if content[place : place + len(mark)] == mark:
        raise InputError(f"{where}: is a tar archive; unpack it with `tar -xf` and name the files in it")
    return content


@contextmanager
def streamed(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be read piece by piece, unpacked meanwhile, however large it is.

    Raises InputError for one that cannot be read or is damaged, for an archive of several files, and for what is no
    text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    packing = _packing(head)
    if packing is None:
        unpacked(head, str(path))  # refuses what is no text
        with path.open("rb") as file:
            yield file
        return
    with _damage(str(path), packing[0]), _STREAMED[packing[0]](path) as stream:
        yield stream


def limit_of(content: bytes) -> int:
    """Returns the bytes to which a packed file may unpack."""
    return max(MIN_LIMIT, MAX_RATIO * len(content))


def plain_name(path: Path) -> str:
    """Returns the name of a file without the suffix of its packing; of a zip archive, the name of its one file."""
    if path.suffix.lower() not in SUFFIXES:
        return path.name
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = _names(archive)
        except (OSError, zipfile.BadZipFile):
            names = []
        if len(names) == 1 and Path(names[0]).suffix:
            return Path(names[0]).name
    return path.stem


def _packing(content: bytes) -> tuple[str, Callable[[bytes, str], Any]] | None:
    """Returns the name of a packing and the function that opens it; None for content that is not packed."""
    if content.startswith(b"\x1f\x8b"):
        return "gzip", lambda packed, where: gzip.GzipFile(fileobj=io.BytesIO(packed))
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstandard", _zstandard
    if content.startswith((_ZIP, _EMPTY_ZIP)):
        return "zip", _only_member
    if content.startswith(b"BZh") and content[4:10] in _BLOCKS_OF_BZIP2:
        return "bzip2", lambda packed, where: bz2.BZ2File(io.BytesIO(packed))
    if content.startswith(b"\xfd7zXZ\0"):
        return "xz", lambda packed, where: lzma.LZMAFile(io.BytesIO(packed))
    return None


@contextmanager
def _damage(where: str, name: str) -> Iterator[None]:
    """Turns what the libraries raise for a damaged file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: packed by {name}, but damaged or cut off: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # of zip: a password, or another way of packing
        raise InputError(f"{where}: packed by {name}, and cannot be unpacked here: {error}; unpack it") from error


def _bounded(opened: Callable[[bytes, str], Any], packed: bytes, where: str, name: str) -> bytes:
    limit = limit_of(packed)
    with opened(packed, where) as stream:
        content: bytes = stream.read(limit + 1)
    if len(content) > limit:
        raise InputError(
            f"{where}: {len(packed)} bytes of {name} unpack to more than {limit}, which data hardly ever do; if the "
            "file is right, unpack it first"
        )
    return content


def _zstandard(packed: bytes, where: str) -> Any:
    """Opens zstandard by pyarrow, since Python has it only from 3.14 on."""
    import pyarrow

    return pyarrow.input_stream(pyarrow.BufferReader(packed), compression="zstd")


def _zstandard_file(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


def _only_member(packed: bytes | Path, where: str) -> Any:
    """Opens the one file of a zip archive, given as bytes or by its path."""
    archive = zipfile.ZipFile(io.BytesIO(packed) if isinstance(packed, bytes) else packed)
    names = _names(archive)
    if "[Content_Types].xml" in archive.namelist():
        raise InputError(f"{where}: is a file of Microsoft Office; save it as CSV (UTF-8)")
    if len(names) != 1:
        listed = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        raise InputError(
            f"{where}: a zip archive of {len(names)} files{f' ({listed})' if names else ''}, expected one; unpack it "
            "and name the file"
        )
    return archive.open(names[0])


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Returns the names of the files in an archive, without folders and what macOS adds."""
    names = (info.filename for info in archive.infolist() if not info.is_dir())
    return [name for name in names if not name.startswith("__MACOSX/") and Path(name).name != ".DS_Store"]


_STREAMED: dict[str, Callable[[Path], Any]] = {  # how a file of each packing is read piece by piece
    "gzip": gzip.open,
    "zstandard": _zstandard_file,
    "zip": lambda path: _only_member(path, str(path)),
    "bzip2": bz2.open,
    "xz": lzma.open,
}
