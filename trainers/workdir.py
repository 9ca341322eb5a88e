"""The folder of a run: it belongs to one config, and a finished run in it is not run again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.files import write_durable

RESULT = "result.json"


def claim(workdir: Path, values: Mapping[str, Any], resume: bool, *, free: Collection[str] = ()) -> Any | None:
    """Makes the folder, or checks that it holds the run of the config `values`; the stored result if there is one.

    Fields in `free` may change when a run is resumed. Raises InputError that names what changed.
    """
    stored = workdir / "config.json"
    if stored.exists():
        if not resume:
            raise InputError(
                f"{workdir}: holds a run already; --resume goes on with it, --workdir names another folder"
            )
        try:
            before = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{stored}: damaged ({error}); start in another --workdir") from error
        if names := changed({**before, **{name: values[name] for name in free}}, values):
            raise InputError(
                f"--resume: {names}: changed since {workdir} was started; restore it or name another --workdir"
            )
        result = workdir / RESULT
        return json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_durable(stored, json.dumps(values, indent=1).encode())
    except NotADirectoryError as error:
        raise InputError(f"{workdir}: cannot be made: {error}") from error
    return None


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
