"""The code behind a user's variant: the file that defines it, and the files that this one imports. Imports no jax.

What a variant computes changes with its code, so prepared rows and fingerprints count its bytes. Imports are read from
the source, wherever they stand in it, and followed from file to file. Topgraft, the standard library and installed
packages are no part of it. Code that is reached in another way, as by `exec` or a name made at run time, is not seen.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError

ROOT = Path(__file__).resolve().parents[2]  # folder that holds Topgraft's packages
PACKAGES = ("adapters", "backbone", "metering", "registry", "serving", "topgraft", "topgraft.py", "trainers")
INSTALLED = ("site-packages", "dist-packages")  # folders of installed packages


def is_topgraft(file: str | Path) -> bool:
    """Returns whether a file comes with Topgraft."""
    path = Path(file).resolve()
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES


def is_library(file: str | Path) -> bool:
    """Returns whether a file belongs to Topgraft, the standard library or an installed package."""
    path = Path(file).resolve()
    if set(INSTALLED) & set(path.parts) or is_topgraft(path):
        return True
    return any(path.is_relative_to(place) for place in _standard_library())


@functools.cache
def _standard_library() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


def code_files(files: Iterable[str]) -> list[str]:
    """Returns files and all that they import, each once, in the order in which they are met; libraries are left out.

    The files themselves are always among them.
    """
    waiting, reached = list(files), dict[str, None]()
    while waiting:
        file = waiting.pop(0)
        if file not in reached:
            reached[file] = None
            waiting += [imported for imported in _imports(file) if not is_library(imported)]
    return list(reached)


def code_hash(files: Sequence[str]) -> str:
    """Returns the hash of files and of all that they import, wherever they lie.

    Of one file alone it is the hash of its bytes, and "" of none. Raises InputError for code that is in no file.
    """
    if not files:
        return ""
    hashes = {file: hashlib.sha256(_content(file)).hexdigest() for file in code_files(files)}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = sorted(f"{Path(file).name} {content}" for file, content in hashes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _content(file: str) -> bytes:
    """Returns the bytes of a file, or of a cell of a notebook; raises InputError where neither is at hand."""
    if Path(file).is_file():
        return Path(file).read_bytes()
    if lines := linecache.getlines(file):
        return "".join(lines).encode()
    raise InputError(f"{file}, which is no file; define it in one, so that a change of its code is noticed")


def imported_names(file: str | Path) -> set[str]:
    """Returns the first names of the modules that a file imports from outside its package; none if it is no Python."""
    return {name.partition(".")[0] for name, level in _imported(str(file)) if not level}


def _imported(file: str) -> Iterator[tuple[str, int]]:
    """Yields the names that the import statements of a file may mean, with the dots in front of each."""
    try:
        tree = ast.parse(_content(file))
    except (InputError, SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if base:
                yield base, node.level
            yield from (((f"{base}." if base else "") + alias.name, node.level) for alias in node.names)


def _imports(file: str) -> Iterator[str]:
    """Yields the files of the modules that a file imports, their packages' included."""
    folder = Path(file).resolve().parent
    for name, level in _imported(file):
        if level:
            yield from _located(name, [str(Path(folder, *[".."] * (level - 1)))])
        elif name.partition(".")[0] not in sys.builtin_module_names:
            yield from _located(name, [*sys.path, str(folder)])


def _located(name: str, places: list[str]) -> Iterator[str]:
    """Yields the files of `a`, `a.b` and `a.b.c` as far as they are modules, without importing any."""
    for part in name.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            return
        if spec.origin and spec.has_location:
            yield str(Path(spec.origin).resolve())
            if is_library(spec.origin):
                return
        if spec.submodule_search_locations is None:
            return
        places = list(spec.submodule_search_locations)
