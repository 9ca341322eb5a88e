"""Config scripts: load one, apply `--set a.b=c`, and give back a validated config. Imports no jax.

Overrides act on the config's JSON form, so a changed tag (`adapter.method=bottleneck`) starts from
that class's defaults, and every value is read as the type its field declares.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from backbone.errors import InputError
from backbone.records import TAGS, Raw, decode, encode
from trainers.config import TrainConfig

T = TypeVar("T")

_PLACES = [Path(__file__).resolve().parents[2] / name for name in ("configs", "topgraft_configs")]
CONFIGS = next((place for place in _PLACES if place.is_dir()), _PLACES[0])  # in a checkout, or installed


def load_config(script: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a graft's training run; see `load_as`."""
    return load_as(TrainConfig, script, overrides)


def load_as(kind: type[T], script: str | Path, overrides: Sequence[str] = ()) -> T:
    """Runs `get_config()` of a config script, by path or by the name of one in `configs/`.

    Raises InputError naming the script or the field, or when what it returns is no `kind`.
    """
    path = find_config(str(script))
    try:
        namespace = runpy.run_path(str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever the user's script raises
        line = _line_in(path, error)
        raise InputError(f"{path}{line}: the config script failed: {type(error).__name__}: {error}") from error
    if not callable(namespace.get("get_config")):
        raise InputError(f"{path}: defines no function get_config()")
    try:
        config = namespace["get_config"]()
    except (InputError, TypeError, NameError, AttributeError) as error:
        raise InputError(f"{path}{_line_in(path, error)}: get_config(): {error}") from error
    if not isinstance(config, kind):
        raise InputError(f"{path}: get_config() returned {type(config).__name__}, expected {kind.__name__}")
    return override(config, overrides)


def find_config(script: str) -> Path:
    """The file of a config given by path, or by name (`trec6`) among those that come with Topgraft."""
    path = Path(script)
    if path.is_file():
        return path
    folders = (CONFIGS, CONFIGS / "backbones")
    for folder in folders:
        named = folder / (path.name if path.suffix == ".py" else f"{path.name}.py")
        if named.is_file():
            return named
    known = sorted(p.stem for folder in folders for p in folder.glob("*.py") if not p.stem.startswith("_"))
    raise InputError(f"{script}: no such config script; by name: {', '.join(known) or 'none'}")


def _line_in(path: Path, error: BaseException) -> str:
    """`:17` where the traceback, or a syntax error, points into the script."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def override(config: T, overrides: Sequence[str]) -> T:
    """The config with each `a.b=c` applied in turn."""
    values = encode(config)
    for text in overrides:
        _put(values, *_split(text))
    return decode(type(config), values)


def _split(text: str) -> tuple[list[str], str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {text}: expected FIELD=VALUE, for example --set optimizer.learning_rate=1e-3")
    return path.strip().split("."), value


def override_part(part: T, name: str, overrides: Sequence[str]) -> T:
    """One section of a config (`data`) with each `data.b=c` applied."""
    values = {name: encode(part)}
    for text in overrides:
        keys, value = _split(text)
        if keys[0] != name or len(keys) < 2:
            raise InputError(f"--set {text}: expected {name}.FIELD=VALUE")
        _put(values, keys, value)
    return decode(type(part), values[name], name)


def _put(values: dict[str, Any], keys: list[str], value: str) -> None:
    *parents, last = keys
    node = values
    for depth, key in enumerate(parents):
        child = node.get(key)
        if not isinstance(child, dict):
            known = ".".join(keys[: depth + 1])
            raise InputError(f"{'.'.join(keys)}: {known} has no fields; set it as a whole")
        node = child
    if last in TAGS and last in node:
        if node[last] != value:
            node.clear()
        node[last] = value
    else:
        node[last] = Raw(value)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers."""
    from importlib.metadata import version

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "topgraft")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}
