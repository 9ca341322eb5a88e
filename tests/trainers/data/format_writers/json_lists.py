"""A JSON object of two lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    path = text_file(folder / "lists.json", json.dumps({"val": [["other", "c"]], "train": rows}))
    return {"train": f"{path}#train", "format": "json_lists"}
