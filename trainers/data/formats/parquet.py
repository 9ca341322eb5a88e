"""Apache Parquet: typed columns, of text, lists, numbers or encoded images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backbone.compression import read_bytes
from backbone.errors import InputError
from backbone.texts import PARQUET
from trainers.data.formats.format import Format, ReadSettings, Record


class Parquet(Format, tag="parquet"):
    """Rows of a Parquet file. Only the columns that are needed are read from the disk."""

    suffixes = (".parquet",)
    image_column = True
    binary = True

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the rows of a file, numbered from 1."""
        import pyarrow
        from pyarrow import parquet

        path = Path(entries[0])
        try:
            file = parquet.ParquetFile(_unpacked(path))
            settings.require_columns(file.schema_arrow.names, str(path))
            columns = list(dict.fromkeys(settings.columns.values())) or None
            number = 0
            for batch in file.iter_batches(columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", record
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a readable Parquet file: {error}") from error


def _unpacked(path: Path) -> Any:
    """Returns the path of a file whose pages alone are packed, as Parquet does; otherwise the unpacked file."""
    import pyarrow

    with path.open("rb") as file:
        if file.read(4) == PARQUET:
            return path
    return pyarrow.BufferReader(read_bytes(path))
