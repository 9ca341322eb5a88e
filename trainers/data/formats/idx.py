"""IDX files, the format of MNIST: an array of images, and an array of labels.

Source of the layout: LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from backbone.compression import read_bytes
from backbone.errors import InputError
from trainers.data.formats.format import Format, ReadSettings, Record


class Idx(Format, tag="idx"):
    """A file of images, uint8 [N,H,W], and a file of labels, uint8 [N]; plain or packed."""

    files = ("images", "labels")
    has_columns = False
    of_images = True
    binary = True

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the pixels uint8 [H,W] and the label of each image, numbered from 0; the label is text."""
        images, labels = map(Path, entries)
        pixels, numbers = idx_array(images, 3), idx_array(labels, 1)
        if len(pixels) != len(numbers):
            raise InputError(
                f"{images} has {len(pixels)} images, {labels} has {len(numbers)} labels: they must be parallel"
            )
        for number, (picture, label) in enumerate(zip(pixels, numbers.tolist(), strict=True)):
            yield f"{images}:{number}", {"image": picture, "label": str(label)}


def idx_array(path: Path, axes: int) -> np.ndarray:
    """Returns the array uint8 of an IDX file; raises InputError for a file that is damaged or has other axes."""
    content = read_bytes(path)
    if content[:4] != bytes((0, 0, 8, axes)):
        raise InputError(f"{path}: not an IDX file of bytes with {axes} axes; format idx takes images, then labels")
    shape = np.frombuffer(content[4 : 4 + 4 * axes].ljust(4 * axes, b"\0"), ">u4")
    if len(content) != 4 + 4 * axes + math.prod(shape.tolist()):
        raise InputError(f"{path}: {len(content)} bytes do not hold {'x'.join(map(str, shape))} values: truncated?")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
