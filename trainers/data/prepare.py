"""Rows that a real TFDS builder writes once as ArrayRecord, and that grain reads back.

The name of a prepared folder is made from the bytes of the files, the settings that change how they are read, and
this reader's version; never from time or place. Rows lie in a canonical order (by their hash), so the order of rows
in a file does not change a run. The folder appears in one step, and is verified byte by byte when it is used again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.heads.columns import LabelColumn
from adapters.labels.cells import stripped
from backbone.errors import InputError
from backbone.files import new_folder, sha256_file
from backbone.records import decode, digest, encode
from backbone.texts import load_json
from backbone.variants.code_files import code_hash
from backbone.variants.registered import own_files
from trainers.config import Data
from trainers.config.former import without_newer
from trainers.data.rows import LabelledRow, RowReader, Split, entries
from trainers.data.splits import fingerprint, kept, membership, place_hash, row_hash
from trainers.runs.logs import silent_tfds
from trainers.runs.reading import EmptyTexts, MovedRow, ReadReport

log = logging.getLogger(__name__)

READER_VERSION = 4  # raised by hand when the same files would give other rows
FORMER_READERS = (3,)  # versions whose grafts are not made anew because the reader changed
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

    def part(self, numbers: Sequence[int]) -> Table:
        """Returns some of the rows, in the order of `numbers`."""
        return Table(
            [self.texts[i] for i in numbers],
            [self.labels[i] for i in numbers],
            [self.where[i] for i in numbers],
            [self.difficulty[i] for i in numbers] if self.difficulty else [],
            [self.images[i] for i in numbers] if self.images else [],
        )


@dataclass(frozen=True)
class PreparedRows:
    """A prepared data set on disk."""

    folder: Path
    splits: tuple[str, ...]  # splits with rows
    fingerprint: dict[str, str]  # fingerprint of each split's rows
    hit: bool  # it had been prepared before
    report: ReadReport  # what was merged, moved, empty or left out

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
    """Returns the prepared rows of every split of `data`, made now or read from `cache`; raises InputError.

    What was merged, moved, empty or left out is said in the log, each time.
    """
    prepared = _prepared(data, column, cache, progress)
    for warning in prepared.report.warnings():
        log.warning("%s", warning)
    return prepared


def _prepared(data: Data, column: LabelColumn, cache: Path, progress: bool) -> PreparedRows:
    if not data.train and not data.test and not data.dev:
        raise InputError("data.train: no file; name one with --set data.train=FILE")
    key = source_of(data, column).key()
    folder = cache / (digest([key, sorted(data.moved)]).removeprefix("sha256:")[:32] if data.moved else key)
    if prepared := _open(folder):
        return prepared
    read = read_splits(data, column)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with new_folder(folder) as temporary:
            _write(read, temporary, progress)
    except InputError:
        if other := _open(folder):  # another process was faster
            return other
        raise
    made = _open(folder)
    if made is None:
        raise OSError(f"{folder}: the prepared rows cannot be read back; is the disk full?")
    return replace(made, hit=False)


@dataclass(frozen=True)
class Source:
    """What would be read: the bytes of the files, and how they are read. Equal keys give equal rows."""

    values: Mapping[str, Any]  # names of the contents, and the settings of the reader

    def key(self, reader: int = READER_VERSION) -> str:
        """Returns the name of what the reader of a version would read."""
        return digest({"reader": reader, **self.values}).removeprefix("sha256:")[:32]


def source_of(data: Data, column: LabelColumn) -> Source:
    """Returns what would be read. The bytes of the code count too where a format or a label column is a user's own.

    Rows that were moved (`data.moved`) follow from the files and from the version before, so they are no part of it.
    """
    apart = ("train", "dev", "test", "max_tokens", "moved")
    values = without_newer({"data": encode(data)}, {"data": encode(Data())})["data"]
    reading = {k: v for k, v in values.items() if k not in apart}
    content: dict[str, list[str]] = {}
    code: dict[str, str] = {}
    for split in SOURCES:
        content[split] = []
        for group in entries(data, split):
            content[split] += [group.format.identity(name, split) for name in group.names]
            if files := own_files(type(group.format)):
                code[group.format.tag] = _code_of(f"data.format: {group.format.tag}", files)
    if file := column.own_file():
        code["label column"] = _code_of(f"head.kind: its label column {type(column).__name__}", [file])
    return Source({"reading": reading, "content": content, **column.key(), **({"code": code} if code else {})})


def _code_of(variant: str, files: Sequence[str]) -> str:
    """Returns the hash of the files behind a user's variant; raises InputError if none defines it."""
    try:
        return code_hash(files)
    except InputError as error:
        raise InputError(f"{variant} is defined in {error}") from None


@dataclass(frozen=True)
class ReadSplits:
    """The rows of every split, in canonical order."""

    rows: dict[str, list[LabelledRow]]  # rows by split, where there are some
    report: ReadReport

    @property
    def moved(self) -> tuple[str, ...]:
        """Returns the hashes of the rows that were moved."""
        return tuple(sorted({row.hash for row in self.report.moved}))


def read_splits(data: Data, column: LabelColumn) -> ReadSplits:
    """Reads every split, and moves the development rows that training needs."""
    reader = RowReader(data, column)
    splits: dict[str, list[LabelledRow]] = {name: [] for name in SPLITS}
    dev_fraction = 0.0 if data.dev else data.dev_fraction
    for row in reader.rows("train") if data.train else ():
        if data.train_fraction == 1 or kept(row.content, data.train_fraction):
            splits[membership(row.content, dev_fraction, data.gate_fraction)].append(row)
    for rows in splits.values():
        rows.sort(key=_canonical)
    moved = () if data.dev else _moved(splits, data, column)
    named: tuple[Split, ...] = ("dev", "test")
    for split in named:
        if getattr(data, split):
            splits[split] += reader.rows(split)
    splits = {name: sorted(rows, key=_canonical) for name, rows in splits.items() if rows}
    spellings = reader.spellings
    report = ReadReport(
        spellings=spellings.several(),
        alike=spellings.alike(),
        missing=spellings.missing(),
        joined=spellings.joined(several=column.several),
        unused=_unused(splits, data, column),
        moved=moved,
        empty=_empty_texts(splits),
        notes=tuple(_notes(data)),
    )
    return ReadSplits(splits, report)


def _canonical(row: LabelledRow) -> bytes:
    return row_hash(row.content, row.labels)


def _moved(splits: dict[str, list[LabelledRow]], data: Data, column: LabelColumn) -> tuple[MovedRow, ...]:
    """Moves development rows to training: those moved before, and one for each label that training lacks.

    Rows of the same normalised text go together. The rest of a label's rows stay where they are.
    """
    before, needed = set(data.moved), set[str]()
    if column.closed:
        known = {label for row in splits["train"] for label in row.labels}
        known |= {
            label for row in splits["dev"] if before and place_hash(row.content) in before for label in row.labels
        }
        for row in splits["dev"]:
            if not known.issuperset(row.labels):
                known.update(row.labels)
                needed.add(place_hash(row.content))
    if not before | needed:
        return ()
    stay: list[LabelledRow] = []
    moved: list[MovedRow] = []
    for row in splits["dev"]:
        if (name := place_hash(row.content)) in before | needed:
            splits["train"].append(row)
            moved.append(MovedRow(row.where, row.labels, name))
        else:
            stay.append(row)
    splits["dev"] = stay
    return tuple(moved)


def _unused(splits: dict[str, list[LabelledRow]], data: Data, column: LabelColumn) -> tuple[str, ...]:
    """Returns the names of data.label_names that no training row has, so that no answer learns them."""
    if not column.closed or not data.label_names or not splits.get("train"):
        return ()
    used = {label for row in splits["train"] for label in row.labels}
    return tuple(name for name in data.keep_labels or data.label_names if name not in used)


def _empty_texts(splits: dict[str, list[LabelledRow]]) -> dict[str, EmptyTexts]:
    """Counts the rows without a text."""
    empty = {}
    for name, rows in splits.items():
        where = [row.where for row in rows if row.image is None and not stripped(row.content)]
        if where:
            empty[name] = EmptyTexts(len(where), min(where, key=_place))
    return empty


def _place(where: str) -> tuple[str, int, str]:
    """Returns a key that sorts places by file and by line."""
    file, _, line = where.rpartition(":")
    return file, int(line) if line.isdecimal() else 0, line


def _notes(data: Data) -> Iterator[str]:
    """Yields what formats leave out."""
    for split in SOURCES:
        for group in entries(data, split):
            for name in group.names:
                yield from group.format.notes(name, split)


def _write(read: ReadSplits, folder: Path, progress: bool) -> None:
    """Writes the rows and the seal into a new folder."""
    from tensorflow_datasets.core import registered

    # the class is private to this call: TFDS would refuse a second one of its name
    with registered.skip_registration():
        builder_class = _builder_class(read.rows)
    with silent_tfds(show=progress):
        builder = builder_class(data_dir=folder / "tfds", file_format="array_record")
        builder.download_and_prepare()
    shutil.move(builder.data_dir, folder / "rows")
    shutil.rmtree(folder / "tfds")
    seal = {
        "fingerprint": {n: fingerprint(row_hash(r.content, r.labels) for r in rows) for n, rows in read.rows.items()},
        "rows": {name: len(rows) for name, rows in read.rows.items()},
        "report": encode(read.report),
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
        seal = load_json((folder / SEAL).read_text(encoding="utf-8"))
        whole = all(sha256_file(folder / "rows" / name) == sha256 for name, sha256 in seal["files"].items())
        report = decode(ReadReport, seal["report"]) if whole else None
    except (OSError, ValueError, KeyError, InputError):
        report = None
    if report is None:
        log.warning("%s: altered or incomplete; preparing the rows again", folder)
        shutil.rmtree(folder)
        return None
    return PreparedRows(folder, tuple(n for n in SPLITS if n in seal["rows"]), seal["fingerprint"], True, report)
