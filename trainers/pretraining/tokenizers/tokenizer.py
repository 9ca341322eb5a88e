"""The base of the ways to come by a run's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from backbone.preprocessing import TextPreprocessing
from backbone.texts import read_text
from backbone.tokenizer_trial import require_usable
from backbone.variants.registered import Registered


class TokenizerSource(Registered, by="kind", folder="trainers.pretraining.tokenizers"):
    """A way to come by the tokenizer of a run."""

    learned: ClassVar[bool] = False  # made from the corpus: the run keeps it, and none is made for a `start`

    @property
    def max_vocabulary(self) -> int:
        """Returns the largest number of tokens that the tokenizer may have."""
        return self.tokenizer((), 512).vocabulary

    def tokenizer(self, paragraphs: Iterable[str], max_tokens: int) -> TextPreprocessing:
        """Returns the tokenizer, cutting at `max_tokens`. `paragraphs` are the corpus without what is held out.

        They can be read several times, and need not fit into memory.

        Raises InputError naming the field at fault.
        """
        raise NotImplementedError


def read_tokenizer(path: Path, max_tokens: int) -> TextPreprocessing:
    """Reads a tokenizer.json and tries it; raises InputError naming a file that is unreadable or fails on a text."""
    preprocessing = TextPreprocessing.from_file_text(read_text(path), max_tokens, str(path))
    require_usable(preprocessing, preprocessing.vocabulary, str(path))
    return preprocessing
