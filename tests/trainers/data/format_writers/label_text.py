"""The label in front of the text, as in TREC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    lines = "".join(f"{label} {text}\n" for text, label in rows)
    return {"train": text_file(folder / "TREC", lines), "format": "label_text"}
