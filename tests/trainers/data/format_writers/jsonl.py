"""An object a line, with a field that nobody reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    lines = [json.dumps({"text": text, "more": [1], "label": label}) for text, label in rows]
    return {"train": text_file(folder / "rows.jsonl", "\n".join(lines) + "\n\n")}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    lines = [json.dumps({"text": text, "more": [1], "label": label})[:-1] + f', "{name}": 2}}' for text, label in rows]
    return {"train": text_file(folder / "rows.jsonl", "\n".join(lines) + "\n")}
