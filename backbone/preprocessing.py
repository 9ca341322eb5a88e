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
from tokenizers import Encoding, Tokenizer

from backbone.errors import InputError
from backbone.records import digest

NUMERICS_VERSION = 1  # raised by hand when the same text would give other ids
STAND_IN = "?"  # for a word of which the tokenizer leaves nothing


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
        encodings = self._at(max_tokens).encode_batch_fast(list(texts))
        cut = sum(bool(e.overflowing) for e in encodings)
        return [np.asarray(e.ids, np.int32) for e in encodings], cut

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None, *, segments: bool = True
    ) -> tuple[list[np.ndarray], int]:
        """Each pair as one row by the tokenizer's own template, cut from the longer side; and how many were cut.

        Rows are int32 [t,2], ids and segments; [t], ids alone, without `segments`, for a backbone that has none.
        """
        encodings = self._at(max_tokens).encode_batch_fast(list(pairs))
        cut = sum(bool(e.overflowing) for e in encodings)
        if not segments:
            return [np.asarray(e.ids, np.int32) for e in encodings], cut
        return [np.stack([e.ids, e.type_ids], axis=1).astype(np.int32) for e in encodings], cut

    def encode_words(
        self, sentences: Sequence[Sequence[str]], max_tokens: int | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray], int]:
        """Ids int32 [t] of words joined by spaces, the place of each word's first sub-word, and how many were cut.

        A place is -1 for a word beyond the cut. A word of which the tokenizer leaves nothing (control
        characters) is read as "?", so that every word has a place.
        """
        rows, places, cut = [], [], 0
        tokenizer = self._at(max_tokens)
        for words, encoding in zip(sentences, tokenizer.encode_batch([" ".join(s) for s in sentences]), strict=True):
            found = _first_subwords(words, encoding)
            lost = found < 0
            if encoding.overflowing:
                lost[found.argmax() :] = False
            if lost.any():
                words = [STAND_IN if gone else word for word, gone in zip(words, lost, strict=True)]
                encoding = tokenizer.encode(" ".join(words))
                found = _first_subwords(words, encoding)
            rows.append(np.asarray(encoding.ids, np.int32))
            places.append(found)
            cut += bool(encoding.overflowing)
        return rows, places, cut

    def _at(self, max_tokens: int | None) -> Tokenizer:
        """The tokenizer that cuts at `max_tokens`."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        if not 3 <= limit <= self.max_tokens:
            raise InputError(f"max_tokens: {limit} must lie in 3..{self.max_tokens}, the longest this backbone takes")
        return _tokenizer(self.tokenizer_json, limit)


def _first_subwords(words: Sequence[str], encoding: Encoding) -> np.ndarray:
    """Place of the first token of each word, int [W], by the characters it covers; -1 where there is none."""
    ends = np.cumsum([len(word) + 1 for word in words])
    places = np.full(len(words), -1)
    for place, ((start, end), special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask, strict=True)):
        if special or end <= start:
            continue
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if places[word] < 0:
            places[word] = place
    return places
