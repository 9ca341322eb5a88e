"""The files that docs/extending.md shows: each block of Python names its path in the first line."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FILES: dict[str, str] = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))  # content by path, in their order


def recipe(path: str) -> str:
    """Returns the content of a file of the page."""
    return FILES[path]
