"""A list of objects over many lines, with a field that nobody reads."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    objects = [{"text": text, "more": [1], "label": label} for text, label in rows]
    return {"train": text_file(folder / "rows.json", dumps(objects, indent=1))}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    objects = [dumps({"text": text, "more": [1], "label": label})[:-1] + f', "{name}": 2}}' for text, label in rows]
    return {"train": text_file(folder / "rows.json", f"[{', '.join(objects)}]")}
