"""A table with tabs, each field in quotes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    return {"train": text_file(folder / "quoted.tsv", stream.getvalue()), "format": "tsv_quoted"}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    lines = [("text", "label", "more", name), *((*row, 1, 2) for row in rows)]
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(lines)
    return {"train": text_file(folder / "rows.tsv", stream.getvalue()), "format": "tsv_quoted"}
