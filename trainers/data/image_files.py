"""Readers of images: folders, IDX files (MNIST) and columns of encoded images.

Every reader gives (encoded bytes, label, where). Each image is decoded once while it is read, so that a
corrupt one is an InputError that names its file before anything is trained. Imports no jax; `pyarrow` and
`tensorflow_datasets` only where they are used.

Source of the IDX layout: LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import InputError, nearest
from backbone.files import sha256_file
from backbone.images import open_image
from backbone.records import digest
from trainers.config import Data

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

Image = tuple[bytes, Any, str]  # encoded, label, where


def read_images(data: Data, split: str) -> Iterator[Image]:
    """The images of a split in the order of its files; raises InputError at the first bad one."""
    files: tuple[str, ...] = getattr(data, split)
    if data.format == "idx":
        return _idx(*map(Path, files)) if files else iter(())
    return (image for name in files for image in _read(data, split, name))


def _read(data: Data, split: str, name: str) -> Iterator[Image]:
    if data.format == "image_folder":
        return _folder(Path(name), f"data.{split}")
    if name.startswith("tfds:"):
        return _tfds(data, split, name)
    return _parquet(data, split, Path(name))


def folder_content(folder: Path) -> str:
    """A hash of every file of an image folder, by its place."""
    return digest({str(path.relative_to(folder)): sha256_file(path) for path, _ in _files(folder, str(folder))})


def _files(folder: Path, field: str) -> Iterator[tuple[Path, str]]:
    """Each image and its class, the name of its subfolder; hidden files are not looked at."""
    for inside in sorted(folder.iterdir()):
        if inside.name.startswith("."):
            continue
        if not inside.is_dir():
            raise InputError(f"{field}: {inside}: is in no class; expected {folder}/CLASS/IMAGE, a folder per class")
        for path in sorted(inside.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(f"{field}: {path}: not an image by its suffix; known are {' '.join(SUFFIXES)}")
            yield path, inside.name


def _folder(folder: Path, field: str) -> Iterator[Image]:
    if not folder.is_dir():
        raise InputError(f"{field}: {folder}: no such folder")
    for path, label in _files(folder, field):
        content = path.read_bytes()
        open_image(content, str(path))
        yield content, label, str(path)


def _idx(images: Path, labels: Path) -> Iterator[Image]:
    pixels, numbers = idx_array(images, 3), idx_array(labels, 1)
    if len(pixels) != len(numbers):
        raise InputError(
            f"{images} has {len(pixels)} images, {labels} has {len(numbers)} labels: they must be parallel"
        )
    for number, (picture, label) in enumerate(zip(pixels, numbers.tolist(), strict=True)):
        yield encoded(picture), str(label), f"{images}:{number}"


def idx_array(path: Path, axes: int) -> np.ndarray:
    """The array uint8 of an IDX file, plain or gzip."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if content[:4] != bytes((0, 0, 8, axes)):
        raise InputError(f"{path}: not an IDX file of bytes with {axes} axes; format idx takes images, then labels")
    shape = np.frombuffer(content[4 : 4 + 4 * axes].ljust(4 * axes, b"\0"), ">u4")
    if len(content) != 4 + 4 * axes + math.prod(shape.tolist()):
        raise InputError(f"{path}: {len(content)} bytes do not hold {'x'.join(map(str, shape))} values: truncated?")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def encoded(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H,W], [H,W,1] or [H,W,3] as PGM or PPM: the same bytes whatever the libraries' versions."""
    kind = "P6" if pixels.ndim == 3 and pixels.shape[-1] == 3 else "P5"
    return f"{kind} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + np.ascontiguousarray(pixels).tobytes()


def _parquet(data: Data, split: str, path: Path) -> Iterator[Image]:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise InputError(f"data.{split}: {path}: no such file")
    try:
        file = parquet.ParquetFile(path)
        _require(data, file.schema_arrow.names, str(path))
        number = 0
        for batch in file.iter_batches(columns=[data.image, data.label]):
            for record in batch.to_pylist():
                number += 1
                where, value = f"{path}:row {number}", record[data.image]
                content = value.get("bytes") if isinstance(value, dict) else value  # as Hugging Face datasets keep it
                if not isinstance(content, bytes):
                    kind = "nothing" if content is None else type(content).__name__
                    raise InputError(f"{where}: {data.image}: expected an encoded image (bytes), got {kind}")
                open_image(content, where)
                yield content, record[data.label], where
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from error


def _tfds(data: Data, split: str, name: str) -> Iterator[Image]:
    from trainers.data.rows import tfds_builder, tfds_label

    builder, chosen = tfds_builder(name.removeprefix("tfds:"), split)
    if chosen not in builder.info.splits:
        raise InputError(f"{name}: has no split {chosen!r}; {nearest(chosen, builder.info.splits)}")
    _require(data, list(builder.info.features), name)
    to_name = getattr(builder.info.features[data.label], "int2str", None)
    for number, record in enumerate(builder.as_data_source(split=chosen)):
        where, value = f"{name}:{number}", record[data.image]
        label = tfds_label(record[data.label], to_name, where)
        if isinstance(value, bytes):
            open_image(value, where)
        elif getattr(value, "dtype", None) == np.uint8 and value.shape[2:] in ((), (1,), (3,)) and value.ndim > 1:
            value = encoded(value)
        else:
            raise InputError(f"{where}: {data.image}: expected an image, got {type(value).__name__}")
        yield value, label, where


def _require(data: Data, names: list[str], where: str) -> None:
    for field, column in (("data.image", data.image), ("data.label", data.label)):
        if column not in names:
            raise InputError(f"{where}: has no column {column!r}; {nearest(column, names)}; set {field}")
