"""Where the rows of an experiment are and how they are read. Imports no jax."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbone.errors import InputError


def data_root() -> str:
    """Folder of the shared public data sets: `TOPGRAFT_DATA`, default `../shared/data`."""
    return os.environ.get("TOPGRAFT_DATA", str(Path("..") / "shared" / "data"))


@dataclass(frozen=True)
class Data:
    """Where the rows are and how to read them.

    A split is one or more files of one format, concatenated, or `tfds:NAME[/CONFIG][:SPLIT]`. For
    head.kind=token_tagging the columns hold words and BIO tags, as lists or as text with spaces between.
    Rows of `train` fall into train, development and gate by a hash of their normalised text, so no
    row changes sides when the data grows (see `trainers.data.splits`).
    """

    train: tuple[str, ...] = ()  # files, or one tfds: name
    dev: tuple[str, ...] = ()  # empty: dev_fraction of train, by hash
    test: tuple[str, ...] = ()  # empty: no test metrics
    format: Literal[
        "auto",
        "csv",
        "tsv",
        "tsv_quoted",
        "jsonl",
        "parquet",
        "label_text",
        "parallel",
        "bio",
        "json_lists",
        "image_folder",
        "idx",
    ] = "auto"
    # auto: by suffix (.csv .tsv .jsonl .parquet .bio .conll); tsv takes quotes literally, tsv_quoted as CSV does;
    # label_text: one row a line, "LABEL TEXT"; parallel: (texts file, labels file), a line each;
    # bio: a word and its tag a line, an empty line between sentences; json_lists: FILE#LIST, a JSON object whose
    # field LIST holds [text, label] lists; image_folder: a folder with a subfolder of images per class; idx:
    # (images file, labels file) as MNIST's
    text: str = "text"  # column of the text
    text_pair: str = ""  # column of the second text, for heads on pairs (head.pair); "" = none
    label: str = "label"  # column of the label (multi_label: a list, or text split at label_separator)
    image: str = ""  # column of encoded images in Parquet or tfds:, instead of text
    columns: tuple[str, ...] = ()  # names of the columns of a CSV or TSV without a header
    encoding: str = "utf-8"  # of text formats; invalid bytes are an error that names the line
    label_names: tuple[str, ...] = ()  # when the column holds 0..C-1: the names, in order
    keep_labels: tuple[str, ...] = ()  # only rows with one of these labels are read; empty: all
    label_separator: str = "|"  # between labels of a multi_label column of text
    difficulty: str = ""  # column with a number, for curriculum.difficulty=column
    train_fraction: float = 1.0  # share of the train rows to use, chosen by hash
    dev_fraction: float = 0.1  # share of train held out for development, by hash; 0 = none
    gate_fraction: float = 0.0  # share of train held out for promotion gates, by hash
    max_tokens: int = 128  # longer inputs are cut, counted and reported

    def __post_init__(self) -> None:
        for name in ("train", "dev", "test", "columns", "label_names", "keep_labels"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, (value,) if value else ())
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"train_fraction: must lie in (0, 1], got {self.train_fraction}")
        if self.dev_fraction < 0 or self.gate_fraction < 0 or self.dev_fraction + self.gate_fraction >= 1:
            raise InputError("dev_fraction: together with gate_fraction must be at least 0 and below 1")
        if self.max_tokens < 3:
            raise InputError(f"max_tokens: must be at least 3 (two special tokens and a word), got {self.max_tokens}")
        if self.format in ("parallel", "idx"):
            for name in ("train", "dev", "test"):
                if len(getattr(self, name)) not in (0, 2):
                    first = "texts" if self.format == "parallel" else "images"
                    raise InputError(f"{name}: format {self.format} needs two files, {first} then labels")
        if self.of_images and (self.difficulty or (self.image and self.format not in ("auto", "parquet"))):
            raise InputError("image: a column of images is in Parquet or tfds:, and has no difficulty beside it")

    @property
    def of_images(self) -> bool:
        """Whether the rows are images."""
        return bool(self.image) or self.format in ("image_folder", "idx")
