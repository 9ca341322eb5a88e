"""The image of a record as encoded bytes, which a row keeps and is known by.

Each image is decoded once while it is read, so that a corrupt one is an InputError that names its file before
anything is trained. Imports no jax; Pillow only where an image is decoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backbone.errors import InputError
from backbone.images import open_image


def image_bytes(value: Any, column: str, where: str) -> bytes:
    """Returns an image as encoded bytes.

    `value` is encoded bytes, a table with them in `bytes` as Hugging Face datasets keep it, or pixels uint8 [H,W],
    [H,W,1] or [H,W,3]. Raises InputError naming `where` for anything else, and for bytes that are no readable image.
    """
    if isinstance(value, dict):
        value = value.get("bytes")
    if getattr(value, "dtype", None) == np.uint8 and value.ndim > 1 and value.shape[2:] in ((), (1,), (3,)):
        return pnm(value)
    if not isinstance(value, bytes):
        kind = "nothing" if value is None else type(value).__name__
        raise InputError(f"{where}: {column}: expected an encoded image (bytes), got {kind}")
    open_image(value, where)
    return value


def pnm(pixels: np.ndarray) -> bytes:
    """Returns pixels uint8 [H,W], [H,W,1] or [H,W,3] as PGM or PPM: the same bytes whatever the libraries' versions."""
    kind = "P6" if pixels.ndim == 3 and pixels.shape[-1] == 3 else "P5"
    return f"{kind} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + np.ascontiguousarray(pixels).tobytes()
