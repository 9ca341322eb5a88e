"""Files of every data format that hold given rows, as another program would write them.

`WRITERS` holds for each tag a function (folder, rows) that returns the fields of `Data` with which they are read back.
The suite in `test_data.py` fails for a format without a writer.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

TextRow = tuple[str, str]  # text and label
TaggedRow = tuple[str, tuple[str, ...]]  # words with spaces between, and their tags
ImageRow = tuple[np.ndarray, str]  # grey pixels uint8 [H,W], the same H and W in every row; and a label of digits

TEXTS: list[TextRow] = [('she said "go", twice', "a"), ("naïve café", "b"), ("one\u2028line", "a")]
TAGGED: list[TaggedRow] = [("to new york", ("O", "B-city", "I-city")), ("10\u00a0000 francs", ("B-sum", "I-sum"))]
PIXELS = np.arange(20, dtype=np.uint8).reshape(5, 4)
IMAGES: list[ImageRow] = [(PIXELS, "1"), (PIXELS + 7, "1"), (PIXELS + 99, "3")]


def _csv(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    stream = io.StringIO()
    first, *more = ((i, *row) for i, row in enumerate(rows))
    csv.writer(stream).writerows([("id", "text", "label"), first, (), *more])
    return {"train": _text(folder / "rows.csv", stream.getvalue())}


def _tsv(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    lines = ("label\ttext", *(f"{label}\t{text}" for text, label in rows))
    return {"train": _text(folder / "rows.tsv", "\n".join(lines) + "\n")}


def _tsv_quoted(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    return {"train": _text(folder / "quoted.tsv", stream.getvalue()), "format": "tsv_quoted"}


def _jsonl(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    lines = [json.dumps({"text": text, "more": [1], "label": label}) for text, label in rows]
    return {"train": _text(folder / "rows.jsonl", "\n".join(lines) + "\n\n")}


def _parquet(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    texts, labels = zip(*rows, strict=True)
    parquet.write_table(pa.table({"label": labels, "text": texts, "x": range(len(rows))}), folder / "rows.parquet")
    return {"train": str(folder / "rows.parquet")}


def _label_text(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    lines = "".join(f"{label} {text}\n" for text, label in rows)
    return {"train": _text(folder / "TREC", lines), "format": "label_text"}


def _parallel(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    files = [_text(folder / f"side{side}", "".join(f"{row[side]}\n" for row in rows)) for side in (0, 1)]
    return {"train": tuple(files), "format": "parallel"}


def _json_lists(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    path = _text(folder / "lists.json", json.dumps({"val": [["other", "c"]], "train": rows}))
    return {"train": f"{path}#train", "format": "json_lists"}


def _tfds(folder: Path, rows: Sequence[TextRow]) -> dict[str, Any]:
    """Has TFDS itself prepare the rows, in a process of its own; TFDS_DATA_DIR is the folder."""
    code = (
        "import json, sys\nimport tensorflow_datasets as tfds\nrows = json.loads(sys.argv[1])\n"
        "class ExampleRows(tfds.core.GeneratorBasedBuilder):\n"
        "    '''Rows of an example.'''\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        names = sorted({label for _, label in rows})\n"
        "        features = {'text': tfds.features.Text(), 'label': tfds.features.ClassLabel(names=names)}\n"
        "        features = tfds.features.FeaturesDict(features)\n"
        "        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)\n"
        "    def _generate_examples(self): pass\n"
        "    def _split_generators(self, manager): return {'train': self._rows()}\n"
        "    def _rows(self):\n"
        "        for i, (text, label) in enumerate(rows): yield i, {'text': text, 'label': label}\n"
        "ExampleRows(data_dir=sys.argv[2], file_format='array_record').download_and_prepare()\n"
    )
    script = Path(_text(folder / "example_rows.py", code))
    subprocess.run([sys.executable, script, json.dumps(rows), folder], check=True, capture_output=True)
    script.unlink()
    return {"train": "tfds:example_rows"}


def _bio(folder: Path, rows: Sequence[TaggedRow]) -> dict[str, Any]:
    sentences = ("".join(f"{w} POS {t}\n" for w, t in zip(text.split(" "), tags, strict=True)) for text, tags in rows)
    return {"train": _text(folder / "rows.conll", "-DOCSTART- -X- O\n\n" + "\n".join(sentences))}


def _image_folder(folder: Path, rows: Sequence[ImageRow]) -> dict[str, Any]:
    for number, (pixels, label) in enumerate(rows):
        place = folder / "pictures" / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return {"train": str(folder / "pictures"), "format": "image_folder"}


def _idx(folder: Path, rows: Sequence[ImageRow]) -> dict[str, Any]:
    pixels = np.stack([picture for picture, _ in rows])
    (folder / "images").write_bytes(idx_bytes(pixels))
    (folder / "labels").write_bytes(idx_bytes(np.array([int(label) for _, label in rows], np.uint8)))
    return {"train": (str(folder / "images"), str(folder / "labels")), "format": "idx"}


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns the bytes of an IDX file, by its description."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def _text(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8", newline="")
    return str(path)


WRITERS: dict[str, Callable[[Path, Any], dict[str, Any]]] = {
    "bio": _bio,
    "csv": _csv,
    "idx": _idx,
    "image_folder": _image_folder,
    "json_lists": _json_lists,
    "jsonl": _jsonl,
    "label_text": _label_text,
    "parallel": _parallel,
    "parquet": _parquet,
    "tfds": _tfds,
    "tsv": _tsv,
    "tsv_quoted": _tsv_quoted,
}
