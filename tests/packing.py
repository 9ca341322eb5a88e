"""Packed bytes as other programs write them, by the suffix of each packing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import pyarrow as pa


def zipped(content: bytes, *names: str) -> bytes:
    """Returns a zip archive that holds the content under each of the names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return stream.getvalue()


PACKED = {
    ".gz": gzip.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    ".zip": lambda content: zipped(content, "folder/", "folder/rows"),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
