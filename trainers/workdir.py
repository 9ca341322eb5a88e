"""The folder of a run: it belongs to one config, and a finished run in it is not run again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from backbone.errors import InputError
from backbone.files import write_durable

CONFIG, RESULT = "config.json", "result.json"
T = TypeVar("T")


def claim(workdir: Path, values: Mapping[str, Any], resume: bool, *, free: Collection[str] = ()) -> Any | None:
    """Makes the folder, or checks that it holds the run of the config `values`; the stored result if there is one.

    Fields in `free` may change when a run is resumed. Raises InputError that names what changed.
    """
    stored = workdir / CONFIG
    if stored.exists():
        if not resume:
            raise InputError(
                f"{workdir}: holds a run already; --resume goes on with it, --workdir names another folder"
            )
        before = _read(stored)
        if names := changed({**before, **{name: values[name] for name in free}}, values):
            raise InputError(
                f"--resume: {names}: changed since {workdir} was started; restore it or name another --workdir"
            )
        result = workdir / RESULT
        return _read(result) if result.exists() else None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_durable(stored, json.dumps(values, indent=1).encode())
    except OSError as error:
        raise InputError(f"{workdir}: cannot be made: {error}; name another --workdir") from error
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error}); start in another --workdir") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: damaged (not a JSON object); start in another --workdir")
    return values


@contextlib.contextmanager
def unclaimed_on_error(workdir: Path, resume: bool) -> Iterator[None]:
    """Gives a folder that was claimed back where bad input ends the run before it has written anything there."""
    try:
        yield
    except InputError:
        if not resume and [path.name for path in workdir.iterdir()] == [CONFIG]:
            (workdir / CONFIG).unlink()
        raise


def stored_result(kind: type[T], workdir: Path, values: Mapping[str, Any]) -> T:
    """What `claim` found, as the result's class; raises InputError where fields are not those of the class."""
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{workdir / RESULT}: damaged ({error}); start in another --workdir") from error


def changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> str:
    """The dotted names of the fields that differ."""
    names = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := changed(old, new, f"{prefix}{key}."):
                names.append(inner)
        elif old != new:
            names.append(f"{prefix}{key} ({old!r} then, {new!r} now)")
    return ", ".join(names)
