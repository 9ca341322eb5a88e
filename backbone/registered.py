"""Variants that register themselves: one file each, found by their folder, told apart by a tag. Imports no jax.

    class Method(Registered, by="method", folder="adapters.methods"):
        '''The base of a kind of variant; it opens the registry.'''

    @dataclass(frozen=True)
    class Lora(Method, tag="lora"):
        '''A variant; `variants(Method)["lora"]` finds it, and records are decoded to it by method="lora".'''

A class statement is checked: the parts that `needs` names must be there, and each part has its type
(`backbone.statements`). The modules of the folder are imported when a tag is first looked up. A user's config script
may define its own variant, which is known once the script has run. For lookups without that script, the environment
variable `TOPGRAFT_VARIANTS` names modules or scripts to run first. No stored artefact decides which code runs.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, TypeVar

from backbone.errors import InputError, nearest
from backbone.statements import faults, lacks_decorator

VARIANTS = "TOPGRAFT_VARIANTS"  # environment variable: modules or scripts that define variants, commas between

B = TypeVar("B")


class UnknownVariant(InputError):
    """A tag that no variant has."""

    def __init__(self, message: str, tag: str = ""):
        super().__init__(message)
        self.tag = tag


class VariantsError(InputError):
    """A module or script of `TOPGRAFT_VARIANTS` that fails."""


@dataclass
class Registry:
    """The variants of one base class."""

    by: str  # name of the tag in records: method, kind, ...
    folder: str  # package whose modules hold the variants that come with Topgraft
    loaded: bool = False  # the folder has been imported
    variants: dict[str, type] = field(default_factory=dict)  # class of each tag
    files: dict[str, str] = field(default_factory=dict)  # file that defines each tag
    names: dict[str, dict[str, Any]] = field(default_factory=dict)  # names in that file, kept after a script has ended
    decorated: set[type] = field(default_factory=set)  # classes whose decorator is known to be there


REGISTRIES: list[Registry] = []  # one for each base


class Registered:
    """A base of variants (`by`, `folder`), a variant (`tag`), or something between them (neither).

    `needs` names the parts that every variant below must define.
    """

    registry: ClassVar[Registry]
    tag: ClassVar[str]  # name in records
    needs: ClassVar[Mapping[str, type]] = MappingProxyType({})  # base that asks for each part

    def __init_subclass__(
        cls,
        *,
        by: str | None = None,
        folder: str = "",
        tag: str | None = None,
        needs: tuple[str, ...] = (),
        **arguments: Any,
    ) -> None:
        super().__init_subclass__(**arguments)
        if needs:
            cls.needs = MappingProxyType({**cls.needs, **dict.fromkeys(needs, cls)})
        if by is not None:
            cls.registry = Registry(by, folder)
            REGISTRIES.append(cls.registry)
            return
        frame = sys._getframe(1)  # the frame of the class statement
        file = _resolved(frame.f_code.co_filename)
        for fault in (*faults(cls, cls.needs if tag else {}), *(cls.misses() if tag else ())):
            raise InputError(f"{file}: class {cls.__name__}: {fault}")
        if tag is not None:
            cls.tag = tag
            setattr(cls, cls.registry.by, tag)
            _register(cls, file)
            cls.registry.names[tag] = frame.f_globals

    @classmethod
    def misses(cls) -> Iterator[str]:
        """Yields what a variant lacks beside `needs`, in words: parts that depend on each other; nothing by default."""
        yield from ()


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
    for tag, cls in registry.variants.items():
        if cls not in registry.decorated:
            if fault := lacks_decorator(cls):
                raise InputError(f"{registry.files[tag]}: class {cls.__name__}: {fault}")
            registry.decorated.add(cls)
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
            f"module that defines it: import it first, or name it in {VARIANTS}{named_variants()}",
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
    """Imports the modules and runs the scripts that `TOPGRAFT_VARIANTS` names; raises VariantsError if one fails."""
    for name in _named():
        try:
            if name.endswith(".py"):
                run_script(name)
            else:
                importlib.import_module(name)
        except InputError as error:  # a class statement that does not fit, with its file
            raise VariantsError(f"{VARIANTS}: {name}: {error}") from error
        except Exception as error:  # whatever the user's code raises
            hint = _not_there(name) if isinstance(error, (FileNotFoundError, ModuleNotFoundError)) else "mend it"
            message = f"{VARIANTS}: {name}: {type(error).__name__}: {error}; {hint}, or leave it out"
            raise VariantsError(message) from error


def named_variants() -> str:
    """Returns what the files that `TOPGRAFT_VARIANTS` names define, as the end of a message; "" where it names none."""
    parts = []
    for name in _named():
        file = name if name.endswith(".py") else getattr(sys.modules.get(name), "__file__", None)
        places = [(registry.by, tag, place) for registry in REGISTRIES for tag, place in registry.files.items()]
        tags = sorted(f"{by}={tag}" for by, tag, place in places if file and place == _resolved(file))
        parts.append(f"{name}, which it names, defines {', '.join(tags) or 'no variant'}")
    return "".join(f"; {part}" for part in parts)


def _named() -> list[str]:
    return [part.strip() for part in os.environ.get(VARIANTS, "").split(",") if part.strip()]


def _not_there(name: str) -> str:
    if name.endswith(".py"):
        return f"paths are relative to the working folder, {Path.cwd()}"
    return "modules are looked for in PYTHONPATH"


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
