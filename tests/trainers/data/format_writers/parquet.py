"""A Parquet file, written by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.trainers.data.format_writers import TextRows

BINARY = True


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    texts, labels = zip(*rows, strict=True)
    parquet.write_table(pa.table({"label": labels, "text": texts, "x": range(len(rows))}), folder / "rows.parquet")
    return {"train": str(folder / "rows.parquet")}


def doubled(folder: Path, rows: TextRows, name: str) -> dict[str, Any]:
    texts, labels = zip(*rows, strict=True)
    table = pa.Table.from_arrays([pa.array(c) for c in (labels, texts, labels, texts)], ["label", "text", "more", name])
    parquet.write_table(table, folder / "rows.parquet")
    return {"train": str(folder / "rows.parquet")}
