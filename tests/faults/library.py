"""The library of `calls.c`: it is compiled on use, loaded before libc, and told where to strike.

A fault is a point and a kind. Only one that was loaded by the variable LD_PRELOAD sees every call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("calls.c")
UNANSWERED = "unanswered"  # a commit that is done, of which the connection says nothing any more
KINDS = ("before", "after", "full", "broken", "torn", UNANSWERED)  # numbered from 1 in calls.c, up to "torn"
WRITES = ("write",)  # calls that may be torn
SQL = "sql"  # first word of the name of a statement to SQLite, which is no call of libc
SERVER = "postgresql"  # first word of that of a statement, a connection or a commit there
COMMIT = f"{SERVER} commit"


@dataclass(frozen=True, order=True)
class Point:
    """A place where a verb changes something."""

    name: str  # call and file, or the statement
    number: int  # times that this name came before

    @property
    def call(self) -> str:
        """Returns the first word of the name: write, rename, ..., sql, postgresql."""
        return self.name.partition(" ")[0]

    @property
    def file(self) -> str:
        """Returns the file below the root; the statement for SQL."""
        return self.name.partition(" ")[2]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Returns the kinds of fault that can happen here."""
        only = {"torn": self.call in WRITES, UNANSWERED: self.name == COMMIT}
        return tuple(kind for kind in KINDS if only.get(kind, True))


def compiler() -> str | None:
    """Returns the compiler of C of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def compiled(folder: Path) -> Path:
    """Compiles the library into a folder, and returns it; raises RuntimeError where nothing can."""
    program, library = compiler(), folder / "calls.so"
    if program is None:
        raise RuntimeError("no compiler of C (cc, gcc or clang): faults below Python need one")
    words = [program, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


def loaded_first(library: Path) -> Mapping[str, str]:
    """Returns the variables with which a process loads the library before libc."""
    return {"LD_PRELOAD": str(library)}


class Calls:
    """The library inside a process that has loaded it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])

    def arm(self, root: Path, lines: int, point: Point | None, kind: str) -> None:
        """Counts from now on, writes each point to the descriptor `lines` (-1: nowhere), and strikes at `point`."""
        number = KINDS.index(kind) + 1 if point is not None else 0
        name, before = (point.name, point.number) if point is not None else ("", -1)
        self._library.arm(os.fsencode(root.resolve()), lines, name.encode(), before, number)

    def disarm(self) -> bool:
        """Ends the counting, and returns whether the fault has struck."""
        self._library.disarm()
        return bool(self._library.has_struck())
