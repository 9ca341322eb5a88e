"""A tokenizer that exists as a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from trainers.pretraining.tokenizers.tokenizer import TokenizerSource, read_tokenizer


@dataclass(frozen=True)
class TokenizerFile(TokenizerSource, tag="file"):
    """A `tokenizer.json` that exists. With `start` it must be that backbone's own."""

    path: str = ""  # file name

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path: names no tokenizer.json")

    def tokenizer(self, paragraphs: Iterable[str], max_tokens: int) -> TextPreprocessing:
        return read_tokenizer(Path(self.path), max_tokens)
