"""A home of its own for a test; compiled programs and the records of the machine are those of the whole run."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = ("programs", "machines")  # `programs` is the folder in TOPGRAFT_TEST_PROGRAMS, and the others lie beside it


def linked(home: Path) -> Path:
    """Makes the home, with links to what the run shares."""
    home.mkdir(parents=True, exist_ok=True)
    for name in SHARED if "TOPGRAFT_TEST_PROGRAMS" in os.environ else ():
        folder = Path(os.environ["TOPGRAFT_TEST_PROGRAMS"]).with_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (home / name).exists():
            (home / name).symlink_to(folder)
    return home
