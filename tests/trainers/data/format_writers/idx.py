"""A file of images and a file of labels, as MNIST has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.trainers.data.format_writers import ImageRows

BINARY = True


def write(folder: Path, rows: ImageRows) -> dict[str, Any]:
    pixels = np.stack([picture for picture, _ in rows])
    (folder / "images").write_bytes(idx_bytes(pixels))
    (folder / "labels").write_bytes(idx_bytes(np.array([int(label) for _, label in rows], np.uint8)))
    return {"train": (str(folder / "images"), str(folder / "labels")), "format": "idx"}


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns the bytes of an IDX file, by its description."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()
