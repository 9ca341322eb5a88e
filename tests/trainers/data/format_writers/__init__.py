"""One file for each data format, called by its tag: it writes files of the format as another program would.

`write(folder, rows)` writes the rows into a folder and returns the fields of `Data` with which they are read back. The
rows are `TEXTS`; those of a format of images are `IMAGES`, those of a format with a label for each word `TAGGED`. The
suite in `tests/trainers/data/test_formats.py` fails for a format without a file here. A format with columns has a
function `doubled(folder, rows, name)` too: the rows with a column `more`, and one further column of the name `name`.
`BINARY = True` says that the files are no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

TextRows = Sequence[tuple[str, str]]  # text and label
TaggedRows = Sequence[tuple[str, tuple[str, ...]]]  # words with spaces between, and their tags
ImageRows = Sequence[tuple[np.ndarray, str]]  # grey pixels uint8 [H,W] of one size; and a label of digits

TEXTS: TextRows = [('she said "go", twice', "a"), ("naïve café", "b"), ("one\u2028line", "a")]
TAGGED: TaggedRows = [("to new york", ("O", "B-city", "I-city")), ("10\u00a0000 francs", ("B-sum", "I-sum"))]
PIXELS = np.arange(20, dtype=np.uint8).reshape(5, 4)
IMAGES: ImageRows = [(PIXELS, "1"), (PIXELS + 7, "1"), (PIXELS + 99, "3")]


def text_file(path: Path, content: str) -> str:
    """Writes a text file as it is, line ends included, and returns its path."""
    path.write_text(content, encoding="utf-8", newline="")
    return str(path)
