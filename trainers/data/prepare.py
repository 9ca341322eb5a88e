"""Rows that a real TFDS builder writes once as ArrayRecord, and that grain reads back.

The name of a prepared folder is made from the bytes of the files, the settings that change how they are read, and
this reader's version; never from time or place. Rows lie in a canonical order (by their hash), so the order of rows
in a file does not change a run. The folder appears in one step, and is verified byte by byte when it is used again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.heads.columns import LabelColumn
from backbone.errors import InputError
from backbone.files import new_folder, sha256_file
from backbone.records import digest, encode
from backbone.registered import own_file
from trainers.config import Data
from trainers.data.rows import LabelledRow, Split, entries, read_rows
from trainers.data.splits import fingerprint, kept, membership, row_hash
from trainers.runs.logs import silent_tfds

log = logging.getLogger(__name__)

READER_VERSION = 3  # raised by hand when the same files would give other rows
SEAL = "prepared.json"  # file in a prepared folder that names the others with their hashes
CHUNK = 512  # rows read at once; reading them one by one takes twice the time
SPLITS = ("train", "dev", "gate", "test")  # splits of prepared rows
SOURCES: tuple[Split, ...] = ("train", "dev", "test")  # splits that name files; gate rows are a share of train


@dataclass(frozen=True)
class Table:
    """The rows of one split, in canonical order."""

    texts: list[str]  # text of each row; both of a pair with NUL between; words of a sentence with spaces between
    labels: list[tuple[str, ...]]  # labels of each row, as the head's column reads them
    where: list[str]  # file and line of each row
    difficulty: list[float]  # difficulty of each row, from data.difficulty; empty without
    images: list[bytes] = field(default_factory=list)  # encoded images; empty without

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class PreparedRows:
    """A prepared data set on disk."""

    folder: Path
    splits: tuple[str, ...]  # splits with rows
    fingerprint: dict[str, str]  # fingerprint of each split's rows
    hit: bool  # it had been prepared before

    def table(self, split: str) -> Table:
        """Reads a split with grain."""
        import grain
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self.folder / "rows")
        source = builder.as_data_source(split=split)
        starts = range(0, len(source), CHUNK)
        chunks = grain.MapDataset.source(starts).map(
            lambda start: source.__getitems__(range(start, min(start + CHUNK, len(source))))
        )
        texts, labels, where = [], [], []
        difficulty: list[float] = []
        images: list[bytes] = []
        for chunk in chunks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)):
            for record in chunk:
                texts.append(record["text"].decode())
                labels.append(tuple(label.decode() for label in record["labels"]))
                where.append(record["where"].decode())
                difficulty += map(float, record["difficulty"])
                images += [record["image"]] if "image" in record else []
        return Table(texts, labels, where, difficulty, images)


def prepare(data: Data, column: LabelColumn, *, cache: Path, progress: bool = False) -> PreparedRows:
    """Returns the prepared rows of every split of `data`, made now or read from `cache`; raises InputError."""
    if not data.train and not data.test and not data.dev:
        raise InputError("data.train: no file; name one with --set data.train=FILE")
    folder = cache / source_key(data, column)
    if prepared := _open(folder):
        return prepared
    splits = read_splits(data, column)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with new_folder(folder) as temporary:
            _write(splits, temporary, progress)
    except InputError:
        if other := _open(folder):  # another process was faster
            return other
        raise
    made = _open(folder)
    if made is None:
        raise OSError(f"{folder}: the prepared rows cannot be read back; is the disk full?")
    return replace(made, hit=False)


def source_key(data: Data, column: LabelColumn) -> str:
    """Returns a name for what would be read: the bytes of the files, and how they are read.

    Equal keys give equal rows. The bytes of the code count too where a format or a label column is a user's own.
    """
    reading = {k: v for k, v in encode(data).items() if k not in ("train", "dev", "test", "max_tokens")}
    content: dict[str, list[str]] = {}
    code: dict[str, str] = {}
    for split in SOURCES:
        content[split] = []
        for group in entries(data, split):
            content[split] += [group.format.identity(name, split) for name in group.names]
            if file := own_file(type(group.format)):
                code[group.format.tag] = _code_of(f"data.format: {group.format.tag}", Path(file))
    if file := column.own_file():
        code["label column"] = _code_of(f"head.kind: its label column {type(column).__name__}", Path(file))
    key = {"reader": READER_VERSION, "reading": reading, "content": content, **column.key()}
    return digest(key | ({"code": code} if code else {})).removeprefix("sha256:")[:32]


def _code_of(variant: str, file: Path) -> str:
    """Returns the hash of the file that defines a user's variant; raises InputError if no file does."""
    if not file.is_file():
        raise InputError(
            f"{variant} is defined in {file}, which is no file; define it in one, so that rows are read again when "
            "its code changes"
        )
    return sha256_file(file)


def read_splits(data: Data, column: LabelColumn) -> dict[str, list[LabelledRow]]:
    """Returns every split's rows in canonical order."""
    splits: dict[str, list[LabelledRow]] = {name: [] for name in SPLITS}
    dev_fraction = 0.0 if data.dev else data.dev_fraction
    for row in read_rows(data, "train", column):
        if data.train_fraction == 1 or kept(row.content, data.train_fraction):
            splits[membership(row.content, dev_fraction, data.gate_fraction)].append(row)
    named: tuple[Split, ...] = ("dev", "test")
    for split in named:
        if getattr(data, split):
            splits[split] += read_rows(data, split, column)
    return {
        name: sorted(rows, key=lambda row: row_hash(row.content, row.labels)) for name, rows in splits.items() if rows
    }


def _write(splits: dict[str, list[LabelledRow]], folder: Path, progress: bool) -> None:
    """Writes the rows and the seal into a new folder."""
    from tensorflow_datasets.core import registered

    # the class is private to this call: TFDS would refuse a second one of its name
    with registered.skip_registration():
        builder_class = _builder_class(splits)
    with silent_tfds(show=progress):
        builder = builder_class(data_dir=folder / "tfds", file_format="array_record")
        builder.download_and_prepare()
    shutil.move(builder.data_dir, folder / "rows")
    shutil.rmtree(folder / "tfds")
    seal = {
        "fingerprint": {n: fingerprint(row_hash(r.content, r.labels) for r in rows) for n, rows in splits.items()},
        "rows": {name: len(rows) for name, rows in splits.items()},
        "files": {p.name: sha256_file(p) for p in sorted((folder / "rows").iterdir()) if p.is_file()},
    }
    (folder / SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")


def _builder_class(splits: dict[str, list[LabelledRow]]) -> Any:
    """Returns a TFDS builder of these rows, in their order."""
    import tensorflow_datasets as tfds

    images = any(row.image is not None for rows in splits.values() for row in rows)

    class Rows(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        """Rows of text with labels."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "labels": tfds.features.Sequence(tfds.features.Text()),
                    "where": tfds.features.Text(),
                    "difficulty": tfds.features.Sequence(np.float64),
                }
                | ({"image": tfds.features.Text()} if images else {})  # bytes as they are, decoded by us
            )
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows: Sequence[LabelledRow]) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, row in enumerate(rows):
                difficulty = [] if row.difficulty is None else [row.difficulty]
                values = {"text": row.content, "labels": list(row.labels), "where": row.where, "difficulty": difficulty}
                yield number, values | ({"image": row.image} if images else {})

    return Rows


def _open(folder: Path) -> PreparedRows | None:
    """Returns the prepared folder if it is whole; removes a damaged one."""
    if not folder.exists():
        return None
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        whole = all(sha256_file(folder / "rows" / name) == sha256 for name, sha256 in seal["files"].items())
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        log.warning("%s: altered or incomplete; preparing the rows again", folder)
        shutil.rmtree(folder)
        return None
    return PreparedRows(folder, tuple(n for n in SPLITS if n in seal["rows"]), seal["fingerprint"], hit=True)
