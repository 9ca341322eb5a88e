"""Variants that register themselves: one file each, found by their folder, told apart by a tag. Imports no jax.

    class Method(Registered, by="method", folder="adapters.methods"):
        '''The base of a kind of variant; it opens the registry.'''

    @dataclass(frozen=True)
    class Lora(Method, tag="lora"):
        '''A variant; `variants(Method)["lora"]` finds it, and records are decoded to it by method="lora".'''

The modules of the folder are imported when a tag is first looked up. A user's config script may define its own
variant, which is known once the script has run. For lookups without that script, the environment variable
`TOPGRAFT_VARIANTS` names modules or scripts to run first. No stored artefact decides which code runs.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from backbone.errors import InputError, nearest

VARIANTS = "TOPGRAFT_VARIANTS"  # environment variable: modules or scripts that define variants, commas between

B = TypeVar("B")


class UnknownVariant(InputError):
    """A tag that no variant has."""

    def __init__(self, message: str, tag: str = ""):
        super().__init__(message)
        self.tag = tag


@dataclass
class Registry:
    """The variants of one base class."""

    by: str  # name of the tag in records: method, kind, ...
    folder: str  # package whose modules hold the variants that come with Topgraft
    loaded: bool = False  # the folder has been imported
    variants: dict[str, type] = field(default_factory=dict)  # class of each tag
    files: dict[str, str] = field(default_factory=dict)  # file that defines each tag
    names: dict[str, dict[str, Any]] = field(default_factory=dict)  # names in that file, kept after a script has ended


class Registered:
    """A base of variants (`by`, `folder`), a variant (`tag`), or something between them (neither)."""

    registry: ClassVar[Registry]
    tag: ClassVar[str]  # name in records

    def __init_subclass__(
        cls, *, by: str | None = None, folder: str = "", tag: str | None = None, **arguments: Any
    ) -> None:
        super().__init_subclass__(**arguments)
        if by is not None:
            cls.registry = Registry(by, folder)
        if tag is not None:
            frame = sys._getframe(1)  # the frame of the class statement
            cls.tag = tag
            setattr(cls, cls.registry.by, tag)
            _register(cls, _resolved(frame.f_code.co_filename))
            cls.registry.names[tag] = frame.f_globals


def _resolved(file: str) -> str:
    """Returns the one name of a file, however the script was called; code without a file keeps its name (`<stdin>`)."""
    return str(Path(file).resolve()) if Path(file).is_file() else file


def _register(cls: Any, file: str) -> None:
    """Adds a variant. A file that runs again replaces its own; raises InputError if another file has the tag."""
    registry: Registry = cls.registry
    other = registry.files.get(cls.tag)
    if other is not None and other != file:
        raise InputError(f"{registry.by}={cls.tag}: {file} defines it, but {other} has that name; choose another")
    registry.variants[cls.tag], registry.files[cls.tag] = cls, file


def variants(base: type[B]) -> dict[str, type[B]]:
    """Returns the class of every tag of a base, in alphabetical order of the tags."""
    registry: Registry = base.registry  # type: ignore[attr-defined]
    if not registry.loaded:
        load_folder(registry.folder)
        registry.loaded = True
    return dict(sorted(registry.variants.items()))


def variant(base: type[B], tag: str, where: str = "") -> type[B]:
    """Returns the class of a tag. Raises UnknownVariant with the nearest names for an unknown one."""
    known = variants(base)
    if tag not in known:
        run_named_variants()
        known = variants(base)
    if tag not in known:
        by = base.registry.by  # type: ignore[attr-defined]
        raise UnknownVariant(
            f"{where or by}: {tag!r} is unknown; {nearest(tag, known)}; a variant of your own needs the script or "
            f"module that defines it: import it first, or name it in {VARIANTS}",
            tag,
        )
    return known[tag]


def own_file(cls: Any) -> str:
    """Returns the file of a variant that does not come with Topgraft; "" for one that does."""
    registry: Registry = cls.registry
    folder = importlib.import_module(registry.folder)
    file = registry.files[cls.tag]
    inside = any(Path(file).resolve().is_relative_to(Path(place).resolve()) for place in folder.__path__)
    return "" if inside else file


def load_folder(package: str) -> list[Any]:
    """Imports every module of a package, and returns them in alphabetical order."""
    places = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(places))
    return [importlib.import_module(f"{package}.{name}") for name in names]


def run_named_variants() -> None:
    """Imports the modules and runs the scripts that `TOPGRAFT_VARIANTS` names; raises InputError if one fails."""
    for name in filter(None, (part.strip() for part in os.environ.get(VARIANTS, "").split(","))):
        try:
            if name.endswith(".py"):
                run_script(name)
            else:
                importlib.import_module(name)
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"{VARIANTS}: {name}: {type(error).__name__}: {error}; mend it or leave it out") from error


def run_script(file: str | Path) -> ModuleType:
    """Runs a Python file as a new module, and returns it.

    The module stays in `sys.modules`, since annotations of its dataclasses are looked up there later.
    """
    module = ModuleType(f"script {Path(file).resolve()}")
    module.__file__ = str(file)
    code = compile(Path(file).read_bytes(), str(file), "exec")
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return module
