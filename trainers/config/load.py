"""Config scripts: run one, apply `--set a.b=c`, and return a validated config. Imports no jax.

Overrides act on the config's JSON form. A changed tag (`adapter.method=bottleneck`) therefore starts from the
defaults of that class, and every value is read as the type that its field declares.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backbone.console.options import argument, option
from backbone.errors import InputError, nearest
from backbone.records import TAGS, Raw, decode, encode, former_field, key_of
from backbone.variants.names import place_of_missing
from backbone.variants.scripts import failure, imports_of, line_in
from trainers.config import TrainConfig

T = TypeVar("T")


class NoConfig(InputError):
    """A script without get_config(), such as an `__init__.py` among configs."""


SCRIPT = "config script, or the name of one that comes with topgraft"

_PLACES = [Path(__file__).resolve().parents[2] / name for name in ("configs", "topgraft_configs")]
CONFIGS = next((place for place in _PLACES if place.is_dir()), _PLACES[0])  # in a checkout, or installed


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """Settings that replace fields of a config."""

    overrides: tuple[str, ...] = option(
        (), "override a config field; may be repeated", name="set", metavar="A.B=C", repeat=True
    )


@dataclass(frozen=True, kw_only=True)
class Scripted(Overridden):
    """A config as the command line names it."""

    config: str = argument(SCRIPT)

    def load(self, kind: type[T]) -> T:
        """Returns the config, a `kind`; see `load_as`."""
        return load_as(kind, self.config, self.overrides)


def load_config(script: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the config of a graft's training run; see `load_as`."""
    return load_as(TrainConfig, script, overrides)


def load_as(kind: type[T], script: str | Path, overrides: Sequence[str] = ()) -> T:
    """Runs `get_config()` of a script, named by its path or as one of `configs/`, and applies the overrides.

    Raises InputError naming the script or the field, also if the config is no `kind`.
    """
    path = find_config(str(script))
    with imports_of(path):
        try:
            namespace = runpy.run_path(str(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the user's script raises, `sys.exit` included
            problem = f"the config script failed: {_told(error, path, failure(error))}"
            raise InputError(f"{path}{line_in(path, error)}: {problem}") from error
        if not callable(namespace.get("get_config")):
            raise NoConfig(f"{path}: defines no function get_config()")
        try:
            config = namespace["get_config"]()
        except (InputError, TypeError, NameError, AttributeError) as error:
            raise InputError(f"{path}{line_in(path, error)}: get_config(): {_told(error, path, str(error))}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise InputError(
                f"{path}{line_in(path, error)}: get_config(): {_told(error, path, failure(error))}"
            ) from error
    if not isinstance(config, kind):
        raise InputError(
            f"{path}: get_config() returned {type(config).__name__}, expected {getattr(kind, '__name__', kind)}"
        )
    return override(config, overrides)


def _told(error: BaseException, script: Path, message: str) -> str:
    """Returns the message of an error, with the present name of a renamed field, or the place of a name."""
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if unknown and (name := former_field(*unknown.groups())):
        return f"{message}; the field is now {name}"
    return message + place_of_missing(error, script)


def find_config(script: str) -> Path:
    """Returns the file of a config, named by its path or by a name (`trec6`) of `configs/`; raises InputError."""
    path = Path(script)
    if path.is_file():
        return path
    folders = (CONFIGS, CONFIGS / "backbones")
    for folder in folders:
        named = folder / (path.name if path.suffix == ".py" else f"{path.name}.py")
        if named.is_file():
            return named
    names = sorted(p.stem for folder in folders for p in folder.glob("*.py") if not p.stem.startswith("_"))
    raise InputError(f"{script}: no such config script; by name: {', '.join(names) or 'none'}")


def override(config: T, overrides: Sequence[str]) -> T:
    """Returns the config with each `a.b=c` applied in turn."""
    values = encode(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(section := getattr(config, field.name)):
            values.setdefault(key_of(field), encode(section))  # one that JSON leaves out at its default
    for text in overrides:
        _put(values, *_split(text))
    return decode(type(config), values)


def _split(text: str) -> tuple[list[str], str]:
    """Splits `a.b=c` into the keys and the value; raises InputError."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {text}: expected FIELD=VALUE, for example --set optimizer.learning_rate=1e-3")
    return path.strip().split("."), value


def override_part(part: T, name: str, overrides: Sequence[str]) -> T:
    """Returns one section of a config (`data`) with each `data.b=c` applied."""
    values = {name: encode(part)}
    for text in overrides:
        keys, value = _split(text)
        if keys[0] != name or len(keys) < 2:
            raise InputError(f"--set {text}: expected {name}.FIELD=VALUE")
        _put(values, keys, value)
    return decode(type(part), values[name], name)


def _put(values: dict[str, Any], keys: list[str], value: str) -> None:
    """Sets a field of a config's JSON form. Another tag than the present one drops the fields beside it."""
    *parents, last = keys
    node = values
    for depth, key in enumerate(parents):
        child, parent = node.get(key), ".".join(keys[: depth + 1])
        if key not in node:
            level = ".".join(keys[:depth]) or "the config"
            raise InputError(f"--set {'.'.join(keys)}: {level} has no field {key!r}; {nearest(key, node)}")
        if not isinstance(child, dict):
            raise InputError(f"{'.'.join(keys)}: {parent} has no fields; set it as a whole")
        node = child
    if last in TAGS and last == next(iter(node), ""):  # a tag stands first; a field further on may have such a name
        if node[last] != value:
            node.clear()
        node[last] = value
    else:
        node[last] = Raw(value)


def versions() -> dict[str, str]:
    """Returns the versions of Python and the libraries on which results depend; a bare checkout has none itself."""
    from importlib.metadata import PackageNotFoundError, version

    known = {"python": sys.version.split()[0]}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "topgraft"):
        with suppress(PackageNotFoundError):
            known[name] = version(name)
    return known
