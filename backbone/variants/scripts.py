"""Users' scripts: how one is run, what it may import, and where it failed. Imports no jax.

A script may define variants (`backbone.variants.registered`) or be a config (`trainers.config.load`). It may import
modules that lie beside it, as one that Python runs, and modules of Topgraft by a former name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from backbone.errors import InputError
from backbone.variants.code_files import imported_names, is_library

SCRIPT_NAME = "script "  # start of the name of a script's module
FORMER_MODULES = {  # present name of each module that scripts may import by a former name
    "trainers.backbone_config": "trainers.pretraining.config",
    "trainers.experiment": "trainers.config.load",
    "trainers.policy": "trainers.config.retrain",
}


class _FormerNames:
    """Finds modules by their former names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, cast(Any, self)) if name in FORMER_MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(FORMER_MODULES[module.__name__])


class _Beside:
    """Finds modules in the folder of a script, where nothing else does; functions of the script may import later."""

    def __init__(self, folder: str):
        self.folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return None if "." in name else importlib.machinery.PathFinder.find_spec(name, [self.folder])


@contextlib.contextmanager
def imports_of(file: str | Path) -> Iterator[None]:
    """Lets a script import modules by their former names while the block runs, and from now on those beside it.

    Raises InputError if a module beside it has the name of another user's module that is loaded already.
    """
    _require_own_modules(Path(file))
    folder = str(Path(file).resolve().parent)
    if not any(isinstance(finder, _Beside) and finder.folder == folder for finder in sys.meta_path):
        sys.meta_path.append(_Beside(folder))
    with former_names():
        yield


@contextlib.contextmanager
def former_names() -> Iterator[None]:
    """Lets modules of Topgraft be imported by their former names while the block runs."""
    former = _FormerNames()
    before = [name for name in FORMER_MODULES if name in sys.modules]  # a script may load another
    sys.meta_path.append(former)
    try:
        yield
    finally:
        sys.meta_path.remove(former)
        for name in FORMER_MODULES:
            if name in sys.modules and name not in before:
                del sys.modules[name]
                package, _, last = name.rpartition(".")
                vars(sys.modules[package]).pop(last, None)


def _require_own_modules(file: Path) -> None:
    """Raises InputError if Python would give a script a module of another folder for one that lies beside it."""
    for name in imported_names(file):
        beside = file.resolve().parent / f"{name}.py"
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded and beside.is_file() and not is_library(loaded) and beside != Path(loaded).resolve():
            raise InputError(
                f"{file}: imports {name}, which is {beside} beside it, but {loaded} is loaded by that name; rename one "
                "of them, or use them in two processes"
            )


def run_script(file: str | Path) -> ModuleType:
    """Runs a Python file as a new module, and returns it. The module stays in `sys.modules`."""
    module = ModuleType(f"{SCRIPT_NAME}{Path(file).resolve()}")
    module.__file__ = str(file)
    code = compile(Path(file).read_bytes(), str(file), "exec")
    sys.modules[module.__name__] = module
    with imports_of(file):
        exec(code, module.__dict__)
    return module


def failure(error: BaseException) -> str:
    """Returns what a script raised, in words, with a remedy where it ended the process."""
    if isinstance(error, SystemExit):
        return f'SystemExit: {error.code}; it ends the process: put that under `if __name__ == "__main__":`'
    return f"{type(error).__name__}: {error}"


def line_in(file: str | Path, error: BaseException) -> str:
    """Returns `:17`, the line of a script in a traceback or a syntax error; "" if there is none."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
