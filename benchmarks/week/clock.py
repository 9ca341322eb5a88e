"""The clock of all processes of a week, which the plan sets: an hour passes in seconds, and it may jump."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

from tests.faults.library import compiler

SOURCE = Path(__file__).with_name("clock.c")
HOUR = 3600  # seconds


class Clock:
    """A file with the seconds by which every process is ahead of the machine."""

    def __init__(self, folder: Path):
        """Compiles the library once; raises RuntimeError where no compiler of C is."""
        self._file, self._library = folder / "clock", folder / "clock.so"
        if not self._file.exists():
            self._file.write_bytes(struct.pack("q", 0))
            self._file.chmod(0o644)
        if not self._library.exists():
            program = compiler()
            if program is None:
                raise RuntimeError("no compiler of C (cc, gcc or clang): the clock of a week needs one")
            words = [program, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE), "-ldl"]
            subprocess.run(words, check=True)

    @property
    def variables(self) -> dict[str, str]:
        """Returns the variables with which a process has this clock."""
        return {"LD_PRELOAD": str(self._library), "TOPGRAFT_CLOCK": str(self._file)}

    @property
    def ahead(self) -> int:
        """Returns the seconds by which the processes are ahead."""
        return int(struct.unpack("q", self._file.read_bytes())[0])

    def jump(self, seconds: int) -> None:
        """Sets the clock forwards, or backwards where `seconds` is negative."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", self.ahead + seconds))

    def reach(self, at: float) -> None:
        """Sets the clock to a time of day in seconds since 1970."""
        self.jump(round(at - time.time()) - self.ahead)
