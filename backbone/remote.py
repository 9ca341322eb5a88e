"""Object stores (`s3://`, `gs://`) through fsspec: what is named there is downloaded once, and written create-only.

    folder = local("s3://bucket/backbones/small")    # in the home, named by what lies there
    created("s3://bucket/store/store.json", content) # False if another was faster

An object store has no rename. A folder is therefore written file by file, and the file that describes the others last:
who finds that one finds all. Every write is conditional (`If-None-Match: *` on S3, generation 0 on Google Cloud), so
nothing that is there ever changes. Imports no jax, and fsspec only for such an address.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.copies import used
from backbone.errors import InputError
from backbone.files import new_folder
from backbone.home import home
from backbone.records import digest

log = logging.getLogger(__name__)

ADDRESS = re.compile(r"(s3|gs)://([^/]+)(?:/+(.*))?")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
MD5 = re.compile(r"[0-9a-f]{32}")  # entity tag that may be the MD5 of the content; that of a large upload is none
SHA256 = "topgraft-sha256"  # metadata of the objects on S3 that are written here: hex digest of their content
ATTEMPTS = 4  # tries of a write that another write of the same object hinders
PAUSE = 0.2  # seconds by which the pause before each further try grows


class Absent(InputError):
    """An address at which nothing lies."""


class Differs(InputError):
    """An object that is there with another content than that to be written."""


@dataclass(frozen=True)
class Entry:
    """An object below an address."""

    name: str  # path below the address; "" for the object of the address
    path: str  # path as fsspec calls it
    size: int
    tag: str  # entity tag or hash, which changes with the content
    md5: str = ""  # hex MD5 of the content, where the listing names it


def is_remote(name: str | Path) -> bool:
    """Returns whether a name is an address on an object store."""
    return isinstance(name, str) and ADDRESS.fullmatch(name) is not None


def local(name: str | Path) -> Path:
    """Returns the path of a file or folder; one on an object store is downloaded into the home, once.

    The copy is named by sizes and tags of the objects, so a changed one is another copy. Raises InputError for an
    address where nothing lies, or that may not be read, and OSError where the store does not answer.
    """
    if not is_remote(name):
        return Path(name)
    address = str(name).rstrip("/")
    entries = listing(address)
    if not entries:
        raise Absent(f"{address}: no object, and none below it; check the address")
    key = digest([address, [[entry.name, entry.size, entry.tag] for entry in entries]]).removeprefix("sha256:")[:32]
    folder, name = home() / "remote" / key, address.rpartition("/")[2]
    if not folder.exists():
        log.info("downloading %s: %d files, %.1f MB", address, len(entries), sum(e.size for e in entries) / 1e6)
        try:
            with new_folder(folder) as temporary:
                download(address, entries, temporary / name)
        except InputError:
            if not folder.exists():  # else another process was faster
                raise
    used(folder)
    return folder / name


def listing(address: str) -> list[Entry]:
    """Returns the objects at an address and below it, by name; raises InputError where it may not be read."""
    system, path = _system(address)
    with _errors(address):
        known = system.find(path, detail=True)
    entries = [
        Entry(place[len(path) :].lstrip("/"), place, int(info["size"]), _tag(info), _md5(info))
        for place, info in known.items()
        if info["type"] == "file" and (place == path or place.startswith(path + "/")) and not place.endswith("/")
    ]
    return sorted(entries, key=lambda entry: entry.name)


def read(address: str) -> bytes | None:
    """Returns the content of an object; None if there is none."""
    system, path = _system(address)
    try:
        with _errors(address):
            return bytes(system.cat_file(path))
    except Absent:
        return None


def created(address: str, content: bytes) -> bool:
    """Writes an object unless there is one; returns whether it was written.

    Source: Amazon S3, conditional writes. 412 says that there is one; 409 that another write hinders, so it is tried
    again.
    """
    system, path = _system(address)
    more = {"Metadata": {SHA256: hashlib.sha256(content).hexdigest()}} if address.startswith("s3:") else {}
    conflict = OSError(address)
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE)
        try:
            with _errors(address):
                system.pipe_file(path, content, mode="create", **more)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if (status := _status(error)) == 412:
                return False
            if status != 409:
                raise
            conflict = error
    if read(address) is None:
        raise conflict
    return False


def upload(folder: Path, names: Sequence[str], address: str) -> None:
    """Writes files of a folder below an address, in this order: the last one says that all are there.

    Objects that are there already stay. Raises Differs if one of them has another content.
    """
    for name in names:
        content, place = (folder / name).read_bytes(), f"{address}/{name}"
        if not created(place, content) and read(place) != content:
            raise Differs(f"{place}: has another content, and nothing is overwritten; choose another address")


def download(address: str, entries: Sequence[Entry], target: Path) -> None:
    """Downloads objects to places below `target`; one without a name of its own becomes `target`.

    Raises InputError for a name that leads out of there.
    """
    for entry in entries:
        if ".." in entry.name.split("/"):
            raise InputError(f"{address}: holds {entry.name!r}, a name that leads out of a folder; remove the object")
        _download(address, entry, target / entry.name if entry.name else target)


def is_copy(address: str, entry: Entry, file: Path) -> bool:
    """Returns whether a file has an object's size, and its content as far as the store names a checksum of it."""
    if file.stat().st_size != entry.size:
        return False
    return all(_hashed(file, kind) == expected for kind, expected in _checksums(address, entry).items())


def _system(address: str) -> tuple[Any, str]:
    """Returns the file system of an address, and the path on it."""
    match = ADDRESS.fullmatch(address)
    assert match is not None, "callers ask `is_remote`"
    scheme, bucket, key = match.groups()
    package = PACKAGES[scheme]
    try:
        import fsspec

        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{address}: needs {package}: pip install 'topgraft[remote]'") from error
    return system, f"{bucket}/{key or ''}".rstrip("/")


def _tag(info: Mapping[str, object]) -> str:
    """Returns what a store says of the content of an object."""
    return str(info.get("ETag") or info.get("md5Hash") or info.get("etag") or info.get("generation") or "").strip('"')


def _hashed(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _md5(info: Mapping[str, object]) -> str:
    """Returns the hex MD5 that Google Cloud lists in base64; "" where it lists none."""
    return base64.b64decode(str(info.get("md5Hash") or "")).hex()


def _checksums(address: str, entry: Entry) -> dict[str, str]:
    """Returns hex digests of an object's content by algorithm, as far as the store names them.

    Source: Amazon S3, `Object`: an entity tag is no MD5 for SSE-KMS, DSSE-KMS and SSE-C, nor in directory buckets.
    """
    if not address.startswith("s3:"):
        return {"md5": entry.md5} if entry.md5 else {}
    system, _ = _system(address)
    bucket, _, key = entry.path.partition("/")
    with _errors(address):
        head = system.call_s3("head_object", Bucket=bucket, Key=key)
    checksums = {}
    keyed = "kms" in head.get("ServerSideEncryption", "") or head.get("SSECustomerAlgorithm")
    if MD5.fullmatch(entry.tag) and not keyed and head.get("StorageClass") != "EXPRESS_ONEZONE":
        checksums["md5"] = entry.tag
    if written := head.get("Metadata", {}).get(SHA256):
        checksums["sha256"] = written
    return checksums


def _status(error: BaseException | None) -> int:
    """Returns the HTTP status that an error or one of its causes carries; 0 if none does."""
    while error is not None:
        response, code = getattr(error, "response", None), getattr(error, "code", None)
        if isinstance(response, dict):  # botocore
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if isinstance(code, int):  # gcsfs
            return code
        error = error.__cause__
    return 0


def _download(address: str, entry: Entry, target: Path) -> None:
    """Downloads an object, and compares its size, and its checksums where the store names them."""
    system, _ = _system(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _errors(address):
        system.get_file(entry.path, str(target))
    if not is_copy(address, entry, target):
        raise OSError(f"{entry.path}: arrived with another content than the store names; try again")


@contextlib.contextmanager
def _errors(address: str) -> Iterator[None]:
    """Raises InputError where an address or its rights are at fault, and OSError where the store is."""
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise Absent(f"{address}: {error}; check the address") from error
    except PermissionError as error:
        raise InputError(f"{address}: may not be read or written: {error}; check the credentials") from error
    except OSError as error:
        raise OSError(f"{address}: {error}") from error
    except Exception as error:  # botocore, aiohttp and gcsfs have a dozen of their own
        name = type(error).__name__
        if "Credentials" in name or "Token" in name:
            raise InputError(f"{address}: no valid credentials ({error}); set those of the store") from error
        raise OSError(f"{address}: {name}: {error}") from error
