"""The place of an experiment's rows, and the way they are read. Imports no jax."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.labels.spelling import spelt
from backbone.errors import InputError
from backbone.variants.registered import variants
from trainers.data.formats.format import AUTO, LAYOUT, Format, ReadSettings, named_format

TABS = {"tab": "\t", "\\t": "\t"}  # spellings of a tab on the command line


def data_root() -> str:
    """Returns the folder of the shared public data sets: `TOPGRAFT_DATA`, default `../shared/data`."""
    return os.environ.get("TOPGRAFT_DATA", str(Path("..") / "shared" / "data"))


@dataclass(frozen=True)
class Data:
    """The rows of an experiment: their files, and how to read them.

    A split is one or more files of one format, concatenated, or `tfds:NAME[/CONFIG][:SPLIT]`. For
    head.kind=token_tagging the columns hold words and BIO tags, as lists or as text with spaces between.
    Rows of `train` fall into train, development and gate by a hash of their normalised text, so no
    row changes sides when the data grows (see `trainers.data.splits`).
    """

    train: tuple[str, ...] = ()  # files, or one tfds: name
    dev: tuple[str, ...] = ()  # files of development rows; empty: dev_fraction of train, by hash
    test: tuple[str, ...] = ()  # files of test rows; empty: no test metrics
    format: str = AUTO  # tag of a format (one file each in trainers/data/formats, or your own); auto: by suffix
    text: str = "text"  # column of the text
    text_pair: str = ""  # column of the second text, for heads on pairs (head.pair); "" = none
    label: str = "label"  # column of the label (multi_label: a list, or text split at label_separator)
    image: str = ""  # column of encoded images, instead of text; "" = none
    columns: tuple[str, ...] = ()  # names of the columns of a CSV, TSV or BIO file without a header
    delimiter: str = ""  # character between two columns of text, or tab; empty: as the format has it, or by the header
    word_column: str = ""  # column of the words of a BIO file: its number, from 1, or its name; empty: the first
    tag_column: str = ""  # column of the tags of a BIO file: its number, from 1, or its name; empty: the last
    encoding: str = "utf-8"  # encoding of text files without a byte order mark; invalid bytes name the line
    label_names: tuple[str, ...] = ()  # names of the labels in order, where the column holds 0..C-1
    keep_labels: tuple[str, ...] = ()  # only rows with one of these labels are read; empty: all
    label_separator: str = "|"  # text between the labels of a multi_label column of text
    difficulty: str = ""  # column with a number, for curriculum.difficulty=column
    train_fraction: float = 1.0  # share of the train rows to use, chosen by hash
    dev_fraction: float = 0.1  # share of train held out for development, by hash; 0 = none
    gate_fraction: float = 0.0  # share of train held out for promotion gates, by hash
    max_tokens: int = 128  # longer inputs are cut, counted and reported
    moved: tuple[str, ...] = ()  # hashes of development rows that training keeps for good; a retraining fills it

    def __post_init__(self) -> None:
        for name in ("train", "dev", "test", "columns", "label_names", "keep_labels", "moved"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, (value,) if value else ())
        for name in ("label_names", "keep_labels"):
            object.__setattr__(self, name, spelt(getattr(self, name), name))
        object.__setattr__(self, "delimiter", TABS.get(self.delimiter, self.delimiter))
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"train_fraction: must lie in (0, 1], got {self.train_fraction}")
        if self.dev_fraction < 0 or self.gate_fraction < 0 or self.dev_fraction + self.gate_fraction >= 1:
            raise InputError("dev_fraction: together with gate_fraction must be at least 0 and below 1")
        if self.max_tokens < 3:
            raise InputError(f"max_tokens: must be at least 3 (two special tokens and a word), got {self.max_tokens}")
        self._check_layout()
        self._check_format()

    def _check_layout(self) -> None:
        """Raises InputError for a delimiter or number of a column that is none, or that the format does not read."""
        if self.delimiter and (len(self.delimiter) > 1 or self.delimiter.isalnum() or self.delimiter in '"\r\n\0'):
            raise InputError(f"delimiter: expected tab, or one character like , or ; got {self.delimiter!r}")
        for name in ("word_column", "tag_column"):
            if re.fullmatch("-[0-9]+|0+", getattr(self, name)):
                raise InputError(f"{name}: columns are numbered from 1, got {getattr(self, name)}")
        chosen = self.file_format
        for name in LAYOUT:
            if chosen is not None and getattr(self, name) and name not in chosen.reads:
                known = ", ".join(tag for tag, other in variants(Format).items() if name in other.reads)
                raise InputError(f"{name}: files of format {self.format} do not have it; those of {known} do")

    def _check_format(self) -> None:
        """Raises InputError if the other fields do not fit the format."""
        chosen = self.file_format
        if chosen is not None and chosen.files:
            for name in ("train", "dev", "test"):
                if len(getattr(self, name)) not in (0, len(chosen.files)):
                    raise InputError(
                        f"{name}: format {self.format} needs {len(chosen.files)} files, {' then '.join(chosen.files)}"
                    )
        if self.image and chosen is not None and not chosen.image_column:
            known = " or ".join(tag for tag, other in variants(Format).items() if other.image_column)
            raise InputError(f"image: a column of images is in {known}; data.format={self.format} has none")
        if self.of_images and self.difficulty:
            raise InputError("difficulty: rows of images have no column of difficulty; leave it out")

    @property
    def file_format(self) -> Format | None:
        """Returns the format of the files; None with `auto`, where each file's suffix decides."""
        return None if self.format == AUTO else named_format(self.format, "format")

    @property
    def of_images(self) -> bool:
        """Returns whether the rows are images."""
        return bool(self.image) or (self.file_format is not None and self.file_format.of_images)

    def read_settings(self, split: str, columns: Mapping[str, str]) -> ReadSettings:
        """Returns the settings by which a format reads the entries of a split; `columns` are those of each role."""
        layout = {name: getattr(self, name) for name in LAYOUT}
        return ReadSettings(split, columns, self.columns, self.encoding, **layout)
