"""A reader under test: it makes real files once, and reads a mutation of them for each number."""

from __future__ import annotations

import contextlib
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from backbone.errors import InputError
from registry.entries import RegistryError

REFUSED = (InputError, RegistryError)  # errors that a person can act on: status 2, 75 or 1 with a reason


class Reader(ABC):
    """Something that reads files which others may have written."""

    def __init__(self, folder: Path):
        """Makes the real files in `folder / "real"`."""
        self.folder, self.real, self.place = folder, folder / "real", folder / "mutated"
        self.real.mkdir(parents=True)
        self.begin()
        self._content = {file: file.read_bytes() for file in sorted(self.real.rglob("*")) if file.is_file()}
        self._changed: set[Path] | None = None

    @abstractmethod
    def begin(self) -> None:
        """Writes the real files."""

    @abstractmethod
    def forge(self, draw: random.Random) -> None:
        """Mutates the files at `place`, and seals them again where they are sealed."""

    @abstractmethod
    def read(self) -> None:
        """Reads what is at `place`, and asserts that it is right."""

    def restore(self) -> None:
        """Makes `place` equal to the real files."""
        if self._changed is None or not self.place.exists():
            shutil.rmtree(self.place, ignore_errors=True)
            shutil.copytree(self.real, self.place)
        for name in self._changed or ():
            (self.place / name).write_bytes(self._content[self.real / name])
        self._changed = set()

    def files(self, pattern: str = "*") -> list[Path]:
        """Returns the names of the real files that match, sorted."""
        return sorted(file.relative_to(self.real) for file in self._content if file.match(pattern))

    def edit(self, draw: random.Random, name: Path | str, edit: Callable[[random.Random, bytes], bytes]) -> bytes:
        """Mutates one file at `place`, and returns its new content."""
        content = edit(draw, self._content[self.real / name])
        self.put(name, content)
        return content

    def put(self, name: Path | str, content: bytes) -> None:
        """Writes a file at `place`, which the next input has as it was."""
        assert self._changed is not None
        self._changed.add(Path(name))
        (self.place / name).write_bytes(content)

    def once(self, number: int) -> str:
        """Reads input `number`: "refused", or "read". Another error is a fault."""
        self.restore()
        with self.way(number):
            self.forge(random.Random(number))
            try:
                self.read()
            except REFUSED:
                return "refused"
        return "read"

    def way(self, number: int) -> contextlib.AbstractContextManager[object]:
        """Returns what surrounds the reading of an input."""
        return contextlib.nullcontext()
