"""Data against the schema of a config; a violation names file, line, column and what was expected. Imports no jax."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.heads.columns import LabelColumn
from backbone.errors import InputError, nearest
from trainers.config import Data
from trainers.config.retrain import Column, Schema
from trainers.data.rows import TFDS, read_rows, suffix_format
from trainers.retrain.rows import Rows

Records = Iterator[tuple[str, Mapping[str, Any]]]  # where, and the columns there


def check(schema: Schema, data: Data, rows: Rows, column: LabelColumn) -> None:
    """Raises InputError at the first violation."""
    for split in ("train", "dev", "test") if schema.columns else ():
        for where, record in _records(data, split, column):
            for expected in schema.columns:
                _check_value(expected, record, where)
    counts = rows["train"].label_counts if "train" in rows else {}
    if schema.min_rows and (found := len(rows["train"]) if "train" in rows else 0) < schema.min_rows:
        raise InputError(f"retrain.schema.min_rows: {schema.min_rows} train rows are asked for, the data hold {found}")
    for split, held in rows.items():
        for label in held.label_counts if schema.labels else ():
            if label not in schema.labels:
                raise InputError(
                    f"retrain.schema.labels: {split} holds the label {label!r}, which is not allowed; "
                    f"{nearest(label, schema.labels)}"
                )
    for label, count in counts.items():
        if count < schema.min_rows_per_label:
            raise InputError(
                f"retrain.schema.min_rows_per_label: {schema.min_rows_per_label} train rows of a label are asked for, "
                f"{label!r} has {count}"
            )


def _check_value(column: Column, record: Mapping[str, Any], where: str) -> None:
    if column.name not in record:
        raise InputError(f"{where}: has no column {column.name!r} of the schema; {nearest(column.name, record)}")
    value = record[column.name]
    if value is None or value == "":
        if column.optional:
            return
        raise InputError(f"{where}: {column.name}: is empty; the schema asks for {column.kind}")
    size = float(len(value)) if column.kind == "text" and isinstance(value, str) else _number(column, value, where)
    unit = " characters" if column.kind == "text" else ""
    if column.least is not None and size < column.least:
        raise InputError(f"{where}: {column.name}: {size:g}{unit}, the schema asks for at least {column.least:g}")
    if column.most is not None and size > column.most:
        raise InputError(f"{where}: {column.name}: {size:g}{unit}, the schema asks for at most {column.most:g}")
    if column.values and str(value) not in column.values:
        raise InputError(f"{where}: {column.name}: {str(value)!r} is not allowed; {nearest(str(value), column.values)}")


def _number(column: Column, value: Any, where: str) -> float:
    """The value as a number of the column's kind."""
    try:
        number = math.nan if column.kind == "text" or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (column.kind == "integer" and number != int(number)):
        raise InputError(f"{where}: {column.name}: {value!r} is not what the schema asks for: {column.kind}")
    return number


def _records(data: Data, split: str, column: LabelColumn) -> Records:
    """Every record of a split's files with all its columns."""
    files: tuple[str, ...] = getattr(data, split)
    if data.of_images and files:
        raise InputError(f"retrain.schema.columns: data.{split} holds images, which have no columns to check")
    for name in files:
        kind = data.format if data.format != "auto" or name.startswith(TFDS) else suffix_format(Path(name), split)
        if name.startswith(TFDS) or kind in ("label_text", "parallel", "json_lists"):
            for row in read_rows(data, split, column):  # type: ignore[arg-type]
                yield row.where, {data.text: row.text, data.label: data.label_separator.join(row.labels)}
            return
        yield from _columns(data, Path(name), kind)


def _columns(data: Data, path: Path, kind: str) -> Records:
    if kind == "parquet":
        from pyarrow import parquet

        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", record
        return
    text = path.read_text(encoding=data.encoding).removeprefix("\ufeff")
    if kind == "jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", json.loads(line)
        return
    quoting: Any = csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL
    names, delimiter = list(data.columns) or None, "," if kind == "csv" else "\t"
    reader: Any = csv.DictReader(io.StringIO(text, newline=""), names, delimiter=delimiter, quoting=quoting)
    begins = 1 if data.columns else 2
    for record in reader:
        yield f"{path}:{begins}", record
        begins = reader.line_num + 1
