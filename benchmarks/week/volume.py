"""The disk of a week's store and home: a small file system where one may be mounted, so that it can be full."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE = 768 << 20  # bytes of the file system
LEFT = 4096  # bytes that a full one still has


class Volume:
    """A folder that may be a file system of its own."""

    def __init__(self, folder: Path, size: int = SIZE):
        self.folder, self._filler, self._size = folder, folder / "filler", size
        folder.mkdir(exist_ok=True)
        self.mounted = os.path.ismount(folder) or self._mount()

    def _mount(self) -> bool:
        if os.geteuid() or shutil.which("mount") is None:
            return False
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        """Gives the file system back, and everything in it."""
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], capture_output=True, check=False)

    def mend(self) -> None:
        """Frees what a full disk lacks."""
        self._filler.unlink(missing_ok=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leaves a few bytes until the block ends."""
        free = shutil.disk_usage(self.folder).free
        try:
            with self._filler.open("wb") as file:
                block = b"\0" * (1 << 20)
                for size in [len(block)] * (max(0, free - LEFT) // len(block)) + [max(0, free - LEFT) % len(block)]:
                    file.write(block[:size])
            yield
        finally:
            self.mend()
