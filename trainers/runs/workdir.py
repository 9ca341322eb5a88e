"""The folder of a run: it belongs to one config and one process, and keeps the result."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.former_names import present_values
from backbone.meshes.processes import leads, together
from backbone.records import decode, encode
from backbone.texts import load_json

CONFIG, RESULT = "config.json", "result.json"
PLAN = "plan.json"  # the prediction of `plan` for a run in this folder
LOCK = ".lock"  # held by the process that works there; it is released when that dies, however it does
T = TypeVar("T")


@contextlib.contextmanager
def claimed(
    workdir: Path,
    values: Mapping[str, Any],
    resume: bool,
    *,
    free: Collection[str] = (),
    kind: type | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Makes the folder, or checks that it holds the run of the config `values`; yields the stored result, if any.

    No other process may claim it while the block runs. Fields in `free` may change when a run is resumed; a stored
    config of a former version is read as its class `kind`. If bad input ends the block before it has written
    anything, a new folder becomes free again. Raises InputError that names what changed, or says that another process
    works there.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((workdir / LOCK).open("w"))
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(f"{workdir}: cannot be made: {error}; name another --workdir") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{workdir}: another process is at work there; wait for its end, or name another --workdir"
            ) from None
        result = _claim(workdir, values, resume, free, kind)
        try:
            yield result
        except InputError:
            if not resume and {path.name for path in workdir.iterdir()} <= {CONFIG, LOCK, PLAN}:
                (workdir / CONFIG).unlink()
            raise


@contextlib.contextmanager
def claimed_by_all(
    workdir: Path,
    values: Mapping[str, Any],
    resume: bool,
    *,
    free: Collection[str] = (),
    kind: type | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Claims the folder as `claimed` does, for all processes of a run, which share it; the first one holds it."""
    with contextlib.ExitStack() as stack:
        with together():
            stored = stack.enter_context(claimed(workdir, values, resume, free=free, kind=kind)) if leads() else None
        if not leads() and resume and (workdir / RESULT).exists():
            stored = _read(workdir / RESULT)
        yield stored


def _claim(
    workdir: Path,
    values: Mapping[str, Any],
    resume: bool,
    free: Collection[str],
    kind: type | None,
) -> dict[str, Any] | None:
    stored = workdir / CONFIG
    if not stored.exists():
        write_durable(stored, json.dumps(values, indent=1).encode())
        return None
    if not resume:
        raise InputError(f"{workdir}: holds a run already; --resume goes on with it, --workdir names another folder")
    before = _read(stored)
    with contextlib.suppress(InputError):  # another version's fields: they are told below
        before = encode(decode(kind, present_values(before))) if kind else before
    if names := changed({**before, **{name: values[name] for name in free}}, values):
        raise InputError(
            f"--resume: {names}: changed since {workdir} was started; restore it or name another --workdir"
        )
    result = workdir / RESULT
    return _read(result) if result.exists() else None


def stored_config(workdir: Path) -> Mapping[str, Any]:
    """Returns the JSON values of the config that the run in a folder began with; none where there is no run."""
    return _read(workdir / CONFIG) if (workdir / CONFIG).exists() else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        values = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error}); start in another --workdir") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: damaged (not a JSON object); start in another --workdir")
    return values


FORMER_FIELDS = {"rungs": "climb"}  # fields of results that former versions wrote by another name


def stored_result(kind: type[T], workdir: Path, values: Mapping[str, Any]) -> T:
    """Returns the result that `claimed` has read, as its class; raises InputError where it is damaged."""
    try:
        return decode(kind, {FORMER_FIELDS.get(name, name): value for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{workdir / RESULT}: damaged ({error}); start in another --workdir") from error


def changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> str:
    """Returns the dotted names of the fields that differ, with both values."""
    names = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := changed(old, new, f"{prefix}{key}."):
                names.append(inner)
        elif old != new:
            names.append(f"{prefix}{key} ({old!r} then, {new!r} now)")
    return ", ".join(names)
