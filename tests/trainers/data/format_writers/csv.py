"""A table with commas, an empty line and a column that nobody reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    stream = io.StringIO()
    first, *more = ((i, *row) for i, row in enumerate(rows))
    csv.writer(stream).writerows([("id", "text", "label"), first, (), *more])
    return {"train": text_file(folder / "rows.csv", stream.getvalue())}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    stream = io.StringIO()
    csv.writer(stream).writerows([("more", "text", "label", name), *((i, *row, i) for i, row in enumerate(rows))])
    return {"train": text_file(folder / "rows.csv", stream.getvalue())}
