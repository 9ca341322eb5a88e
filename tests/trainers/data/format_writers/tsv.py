"""A table with tabs, as GLUE has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    lines = ("label\ttext", *(f"{label}\t{text}" for text, label in rows))
    return {"train": text_file(folder / "rows.tsv", "\n".join(lines) + "\n")}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    lines = (f"label\ttext\tmore\t{name}", *(f"{label}\t{text}\t1\t2" for text, label in rows))
    return {"train": text_file(folder / "rows.tsv", "\n".join(lines) + "\n")}
