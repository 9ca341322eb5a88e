"""Variants that register themselves: one file each, found by their folder, told apart by a tag. Imports no jax.

    class Method(Registered, by="method", folder="adapters.methods"):
        '''The base of a kind of variant; it opens the registry.'''

    @dataclass(frozen=True)
    class Lora(Method, tag="lora"):
        '''A variant; `variants(Method)["lora"]` finds it, and records are decoded to it by method="lora".'''

A class statement is checked: the parts that `needs` names must be there, each part has its type
(`backbone.variants.statements`), and records can hold each field (`backbone.variants.field_types`). The modules of the
folder are imported when a tag is first looked up. A user's config script may define its own variant, which is known
once the script has run; a file that runs again replaces its classes. For lookups without that script, the environment
variable `TOPGRAFT_VARIANTS` names modules or scripts to run first. No stored artefact decides which code runs.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from backbone.errors import InputError, nearest
from backbone.variants.code_files import is_topgraft
from backbone.variants.field_types import ORIGINS, Origin, field_faults
from backbone.variants.scripts import failure, former_names, line_in, run_script
from backbone.variants.statements import faults, lacks_decorator

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
    spelling: str = "[a-z0-9_]+"  # pattern of the tags
    words: tuple[str, ...] = ()  # words that stand for something else where a tag may stand
    loaded: bool = False  # the folder has been imported
    variants: dict[str, type] = field(default_factory=dict)  # class of each tag
    files: dict[str, str] = field(default_factory=dict)  # file that defines each tag
    checked: set[type] = field(default_factory=set)  # classes that were looked at after their decorator had run


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
        spelling: str = Registry.spelling,
        words: tuple[str, ...] = (),
        **arguments: Any,
    ) -> None:
        if "tag" in vars(cls) and "__dataclass_fields__" in vars(cls):  # made again by dataclass(slots=True)
            super().__init_subclass__(**arguments)
            _replace(cls)
            return
        frame = sys._getframe(1)  # the frame of the class statement
        names, local = frame.f_globals, frame.f_locals
        file = _resolved(frame.f_code.co_filename)
        ORIGINS[cls] = Origin(file, names, {} if local is names else dict(local))
        try:
            super().__init_subclass__(**arguments)
        except TypeError as error:  # a misspelt argument; bases beside this one may take some
            raise InputError(f"{file}: class {cls.__name__}: {error}; a variant takes tag=...") from error
        if needs:
            cls.needs = MappingProxyType({**cls.needs, **dict.fromkeys(needs, cls)})
        if by is not None and not hasattr(cls, "registry"):
            cls.registry = Registry(by, folder, spelling, words)
            REGISTRIES.append(cls.registry)
            return
        for fault in _faults(cls, tag, by):
            raise InputError(f"{file}: class {cls.__name__}: {fault}")
        if tag is not None:
            cls.tag = tag
            setattr(cls, cls.registry.by, tag)
            _register(cls)

    @classmethod
    def misses(cls) -> Iterator[str]:
        """Yields what a variant lacks beside `needs`, in words: parts that depend on each other; nothing by default."""
        yield from ()


def _resolved(file: str) -> str:
    """Returns the one name of a file, however the script was called; code without a file keeps its name (`<stdin>`)."""
    return str(Path(file).resolve()) if Path(file).is_file() else file


def _faults(cls: type[Registered], tag: str | None, by: str | None) -> Iterator[str]:
    """Yields the faults of a class statement, in words."""
    base = next(base for base in cls.__mro__[1:] if "registry" in vars(base))
    registry: Registry = vars(base)["registry"]
    if by is not None:
        yield f"by={by!r} is for the base of a kind, which {base.__name__} is; leave it out"
    if tag is not None and (not isinstance(tag, str) or not re.fullmatch(registry.spelling, tag)):
        yield f"tag={tag!r}: expected a text of {registry.spelling}; write tag={_suggested(tag, cls.__name__)!r}"
    if tag in registry.words:
        yield f"tag={tag!r}: {registry.by}={tag} means something else; choose another"
    yield from field_faults(cls, {registry.by, "tag", "registry", "needs"})
    yield from faults(cls, cls.needs if tag is not None else {})
    yield from cls.misses() if tag is not None else ()


def _suggested(tag: object, name: str) -> str:
    """Returns a tag as it might have been meant."""
    text = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", tag if isinstance(tag, str) and tag.strip() else name)
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_") or name.lower()


def _register(cls: type[Registered]) -> None:
    """Adds a variant. It replaces the class of that name in the same file or notebook, which has run again.

    Raises InputError if another class has the tag.
    """
    registry, (file, names, _) = cls.registry, ORIGINS[cls]
    if other := registry.variants.get(cls.tag):
        same_run, same_name = ORIGINS[other].names is names, other.__qualname__ == cls.__qualname__
        if same_run and not same_name:
            raise InputError(
                f"{file}: class {cls.__name__}: {registry.by}={cls.tag} is the tag of class {other.__name__} there; "
                "choose another"
            )
        before = registry.files[cls.tag]
        if not same_run and before != file:
            raise InputError(f"{registry.by}={cls.tag}: {file} defines it, but {before} has that name; choose another")
    registry.variants[cls.tag], registry.files[cls.tag] = cls, file


def _replace(cls: type[Registered]) -> None:
    """Puts a class in the place of the one from which a decorator made it."""
    former = cls.registry.variants[cls.tag]
    ORIGINS[cls], cls.registry.variants[cls.tag] = ORIGINS[former], cls


def require_recorded(value: Registered) -> None:
    """Raises InputError unless records can hold a variant: a dataclass with a tag."""
    cls = type(value)
    base = next(base for base in cls.__mro__[1:] if base in ORIGINS)
    where = f"{ORIGINS[cls].file}: class {cls.__name__}"
    if "tag" not in vars(cls):
        tag = _suggested("", cls.__name__)
        statement = f"class {cls.__name__}({base.__name__}, tag={tag!r})"
        raise InputError(f"{where}: has no tag, so no record can name it; write {statement}")
    _check_finished(cls)
    if not hasattr(cls, "__dataclass_fields__"):
        raise InputError(f"{where}: is no dataclass, so no record can hold it; write @dataclass(frozen=True) above it")


def _check_finished(cls: Any) -> None:
    """Raises InputError for a fault of a class that shows once its decorator and its file have run."""
    registry: Registry = cls.registry
    if cls not in registry.checked:
        for fault in filter(None, (lacks_decorator(cls), *field_faults(cls, (), late=True))):
            raise InputError(f"{ORIGINS[cls].file}: class {cls.__name__}: {fault}")
        registry.checked.add(cls)


def variants(base: type[B]) -> dict[str, type[B]]:
    """Returns the class of every tag of a base, in alphabetical order of the tags."""
    registry: Registry = base.registry  # type: ignore[attr-defined]
    if not registry.loaded:
        load_folder(registry.folder)
        registry.loaded = True
    for cls in registry.variants.values():
        _check_finished(cls)
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
    file: str = cls.registry.files[cls.tag]
    return "" if is_topgraft(file) else file


def is_own(cls: type) -> bool:
    """Returns whether a class does not come with Topgraft."""
    if cls in ORIGINS:
        return not is_topgraft(ORIGINS[cls].file)
    return cls is not object and not is_topgraft(getattr(sys.modules.get(cls.__module__), "__file__", "") or "<none>")


def own_files(cls: type[Registered]) -> list[str]:
    """Returns the file of a variant that does not come with Topgraft, and those of its bases that do not."""
    files = [ORIGINS[base].file for base in cls.__mro__ if base in ORIGINS]
    return [file for file in dict.fromkeys(files) if not is_topgraft(file)]


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
                with former_names():
                    importlib.import_module(name)
        except InputError as error:  # a class statement that does not fit, with its file
            raise VariantsError(f"{VARIANTS}: {name}: {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the user's code raises, `sys.exit` included
            message = f"{VARIANTS}: {name}{line_in(name, error)}: {failure(error)}; {_remedy(name, error)}"
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


def _remedy(name: str, error: BaseException) -> str:
    script = name.endswith(".py")
    if script and not Path(name).is_file():
        return f"paths are relative to the working folder, {Path.cwd()}; mend it, or leave it out"
    if isinstance(error, ModuleNotFoundError):
        places = "beside the script and in PYTHONPATH" if script else "in PYTHONPATH"
        return f"modules are looked for {places}; mend it, or leave it out"
    return "mend it, or leave it out"
