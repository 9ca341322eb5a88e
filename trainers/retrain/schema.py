"""The check of data against the schema of a config. Imports no jax.

A violation names file, line and column, and what the schema asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.heads.columns import LabelColumn
from adapters.labels.cells import as_number
from adapters.labels.spelling import spelt
from backbone.errors import InputError, nearest
from trainers.config import Data
from trainers.config.retrain import Column, Schema
from trainers.data.formats.format import Record
from trainers.data.prepare import SOURCES
from trainers.data.rows import Split, entries, read_rows
from trainers.retrain.rows import Rows


def check(schema: Schema, data: Data, rows: Rows, labels: LabelColumn) -> None:
    """Raises InputError at the first violation, first of the columns, then of the counts and labels of `rows`."""
    for split in SOURCES if schema.columns else ():
        if data.of_images and getattr(data, split):
            raise InputError(f"retrain.schema.columns: data.{split} holds images, which have no columns to check")
        for where, record in _records(data, split, labels):
            for column in schema.columns:
                _check_value(column, record, where)
    counts = rows["train"].label_counts if "train" in rows else {}
    size = len(rows["train"]) if "train" in rows else 0
    if size < schema.min_rows:
        raise InputError(f"retrain.schema.min_rows: {schema.min_rows} train rows are asked for, the data hold {size}")
    allowed = spelt(schema.labels, "retrain.schema.labels")
    for name, split_rows in rows.items():
        for label in split_rows.label_counts if allowed else ():
            if label not in allowed:
                raise InputError(
                    f"retrain.schema.labels: {name} holds the label {label!r}, which is not allowed; "
                    f"{nearest(label, allowed)}"
                )
    named = dict.fromkeys(allowed, 0) if rows and schema.min_rows_per_label else {}
    for label, count in (named | dict(counts)).items():
        if count < schema.min_rows_per_label:
            raise InputError(
                f"retrain.schema.min_rows_per_label: {schema.min_rows_per_label} train rows of a label are asked for, "
                f"{label!r} has {count}"
            )


def _check_value(column: Column, record: Mapping[str, Any], where: str) -> None:
    """Raises InputError unless the record's value is one that the schema allows in the column."""
    if column.name not in record:
        raise InputError(f"{where}: has no column {column.name!r} of the schema; {nearest(column.name, record)}")
    value = record[column.name]
    if value is None or value == "":
        if column.optional:
            return
        raise InputError(f"{where}: {column.name}: is empty; the schema asks for {column.kind}")
    size = float(len(value)) if column.kind == "text" and isinstance(value, str) else _number(column, value, where)
    unit = " characters" if column.kind == "text" else ""
    if column.min is not None and size < column.min:
        raise InputError(f"{where}: {column.name}: {size:g}{unit}, the schema asks for at least {column.min:g}")
    if column.max is not None and size > column.max:
        raise InputError(f"{where}: {column.name}: {size:g}{unit}, the schema asks for at most {column.max:g}")
    if column.values and str(value) not in column.values:
        raise InputError(f"{where}: {column.name}: {str(value)!r} is not allowed; {nearest(str(value), column.values)}")


def _number(column: Column, value: Any, where: str) -> float:
    """Returns the value as a number of the column's kind; raises InputError if it is none."""
    try:
        number = math.nan if column.kind == "text" else as_number(value, column.name, where)
    except InputError:
        number = math.nan
    if not math.isfinite(number) or (column.kind == "integer" and number != int(number)):
        raise InputError(f"{where}: {column.name}: {value!r} is not what the schema asks for: {column.kind}")
    return number


def _records(data: Data, split: Split, labels: LabelColumn) -> Iterator[Record]:
    """Yields every record of a split's files with all its columns; where they have none, the text and the labels."""
    groups = list(entries(data, split))
    if all(group.format.has_columns and group.format.entry == "file" for group in groups):
        settings = data.read_settings(split, {})
        for group in groups:
            yield from group.format.records(group.names, settings)
        return
    for row in read_rows(data, split, labels):
        yield row.where, {data.text: row.text, data.label: data.label_separator.join(row.labels)}
