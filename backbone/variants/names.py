"""The places of public names, for a script that looks for one in the wrong module. Imports no module to find them."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from backbone.errors import nearest

PACKAGES = ("adapters", "backbone", "metering", "registry", "serving", "trainers")  # packages of Topgraft
_NOT_THERE = re.compile(r"cannot import name '(\w+)' from (?:partially initialized module )?'([\w.]+)'")


def place_of_missing(error: BaseException, script: Path) -> str:
    """Returns where the names live that an error says are not there, as the end of a message; "" for other errors.

    The error is that of an import in `script`, of a name that is not defined, or of a module's attribute.
    """
    return "".join(f"; {words}" for name, module in _missing(error, script) if (words := _words(name, module)))


def place_of(name: str) -> str:
    """Returns the module from which a public name of Topgraft is imported; "" for a name that no module has.

    A module that lists the name in `__all__` comes first, then the one with the shortest name.
    """
    places = []
    for module, file in _modules():
        text = file.read_text(encoding="utf-8")
        if re.search(rf"\b{re.escape(name)}\b", text):
            listed, defined = _public(ast.parse(text))
            if name in listed or name in defined:
                places.append((name not in listed, module.count("."), module))
    return min(places)[2] if places else ""


def _missing(error: BaseException, script: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, module) of what an error says is not there; the module is "" for a name that is not defined."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.partition(".")[0] in PACKAGES:
            yield from ((name, error.name) for name in _imported_from(script, error.name))
    elif isinstance(error, ImportError) and (match := _NOT_THERE.match(str(error))):
        if match[2].partition(".")[0] in PACKAGES:
            yield match[1], match[2]
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        if error.obj.__name__.partition(".")[0] in PACKAGES:
            yield str(error.name), error.obj.__name__
    elif isinstance(error, NameError) and error.name:
        yield error.name, ""


def _imported_from(script: Path, module: str) -> list[str]:
    """Returns the names that a script imports from a module, or from one below it."""
    tree = ast.parse(script.read_bytes())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return [name.name for node in froms if f"{node.module}.".startswith(f"{module}.") for name in node.names]


def _words(name: str, module: str) -> str:
    if place := place_of(name):
        return f"{name} is in {place}: from {place} import {name}"
    known = [name for other, file in _modules() if other == module for name in _names(file)]
    return f"in {module}, {nearest(name, known)}" if known else ""


def _names(file: Path) -> set[str]:
    listed, defined = _public(ast.parse(file.read_bytes()))
    return listed or defined


def _modules() -> Iterator[tuple[str, Path]]:
    """Yields name and file of every module of Topgraft."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
            for file in sorted(folder.rglob("*.py")):
                parts = file.relative_to(folder).with_suffix("").parts
                yield ".".join((package, *(part for part in parts if part != "__init__"))), file


def _public(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Returns the names that a module lists in `__all__`, and the public ones that it defines."""
    listed, defined = set[str](), set[str]()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in names and node.value is not None:
                listed |= set(ast.literal_eval(node.value))
            defined |= names
    return listed, {name for name in defined if not name.startswith("_")}
