"""A file of texts and a file of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    files = [text_file(folder / f"side{side}", "".join(f"{row[side]}\n" for row in rows)) for side in (0, 1)]
    return {"train": tuple(files), "format": "parallel"}
