"""Text to token ids, exactly as the backbone was trained to see it.

A tokenizer is a `tokenizer.json` of the `tokenizers` library. Truncation and padding that the file
may carry are switched off (all-MiniLM's pads everything to 128); ours are the only ones.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Tokenizer

from backbone.errors import InputError
from backbone.records import digest

NUMERICS_VERSION = 1  # raised by hand when the same text would give other ids


@functools.lru_cache(maxsize=16)
def _tokenizer(tokenizer_json: str, max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


@dataclass(frozen=True)
class TextPreprocessing:
    """A tokenizer, named by the content of its file."""

    tokenizer_json: str  # normalised: no truncation, no padding
    max_tokens: int  # longest input, special tokens included
    fill: int = 0  # id of the padding token

    @classmethod
    def from_file_text(cls, text: str, max_tokens: int, where: str) -> TextPreprocessing:
        """Reads a tokenizer.json; raises InputError naming `where` when it is not one."""
        try:
            content = json.loads(text)
            content["truncation"] = None
            content["padding"] = None
            normalised = json.dumps(content, sort_keys=True, ensure_ascii=False)
            tokenizer = Tokenizer.from_str(normalised)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"{where}: not a tokenizer.json that the tokenizers library reads: {error}") from error
        fill = next((i for t in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(t)) is not None), 0)
        return cls(normalised, max_tokens, fill)

    @cached_property
    def preprocessing_id(self) -> str:
        """`sha256:<hex>` of everything that decides the ids of a text."""
        return digest(
            {
                "kind": "text",
                "tokenizer": json.loads(self.tokenizer_json),
                "max_tokens": self.max_tokens,
                "fill": self.fill,
                "numerics": NUMERICS_VERSION,
            }
        )

    @property
    def vocabulary(self) -> int:
        """Number of token ids the tokenizer can produce."""
        return max(_tokenizer(self.tokenizer_json, self.max_tokens).get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Token ids, int32 [t] each, special tokens included, cut at `max_tokens`."""
        return self.encode_counting(texts, max_tokens)[0]

    def encode_counting(self, texts: Sequence[str], max_tokens: int | None = None) -> tuple[list[np.ndarray], int]:
        """As `encode`, with the number of texts that were cut."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        if not 3 <= limit <= self.max_tokens:
            raise InputError(f"max_tokens: {limit} must lie in 3..{self.max_tokens}, the longest this backbone takes")
        encodings = _tokenizer(self.tokenizer_json, limit).encode_batch_fast(list(texts))
        cut = sum(bool(e.overflowing) for e in encodings)
        return [np.asarray(e.ids, np.int32) for e in encodings], cut
