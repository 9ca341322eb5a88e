"""Text to token ids, exactly as the backbone was trained to see it.

A tokenizer is a `tokenizer.json` of the `tokenizers` library. Its own truncation and padding are switched off
(all-MiniLM's file pads everything to 128), since ours are the only ones. Two settings are kept where they are not the
usual ones: the side that is cut, and the padding token.
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
from backbone.texts import load_json

NUMERICS_VERSION = 1  # raised by hand when the same text would give other ids
STAND_IN = "?"  # text in place of a word for which the tokenizer gives no token


_CUT_LEFT = {"direction": "Left", "strategy": "LongestFirst", "stride": 0}
_PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}


@functools.lru_cache(maxsize=16)
def _tokenizer(tokenizer_json: str, max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, direction="left" if _cuts_left(tokenizer) else "right")
    return tokenizer


def _cuts_left(tokenizer: Tokenizer) -> bool:
    return tokenizer.truncation is not None and tokenizer.truncation["direction"] == "left"


def _fill(tokenizer: Tokenizer, usual: int) -> int:
    """Returns the id of the file's padding token if it is one of the vocabulary, else the usual one."""
    padding = tokenizer.padding
    if padding and tokenizer.id_to_token(padding["pad_id"]) == padding["pad_token"]:
        return int(padding["pad_id"])
    return usual


@dataclass(frozen=True)
class TextPreprocessing:
    """A tokenizer, named by the content of its file."""

    tokenizer_json: str  # normalised: no truncation but from the left, no padding but of an unusual token
    max_tokens: int  # longest input, special tokens included
    fill: int = 0  # id of the padding token

    @classmethod
    def from_file_text(cls, text: str, max_tokens: int, where: str) -> TextPreprocessing:
        """Reads a tokenizer.json. Raises InputError naming `where` if it is not one."""
        try:
            content = load_json(text)
            tokenizer = Tokenizer.from_str(text)
            usual = next((i for t in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(t)) is not None), 0)
            fill = _fill(tokenizer, usual)
            content["truncation"] = _CUT_LEFT | {"max_length": max_tokens} if _cuts_left(tokenizer) else None
            content["padding"] = (
                None if fill == usual else _PADDING | {"pad_id": fill, "pad_token": tokenizer.id_to_token(fill)}
            )
            normalised = json.dumps(content, sort_keys=True, ensure_ascii=False)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"{where}: not a tokenizer.json that the tokenizers library reads: {error}") from error
        return cls(normalised, max_tokens, fill)

    @cached_property
    def preprocessing_id(self) -> str:
        """Returns `sha256:<hex>` of everything that decides the ids of a text."""
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
    def cuts_left(self) -> bool:
        """Returns whether a text that is too long loses its beginning."""
        return _cuts_left(_tokenizer(self.tokenizer_json, self.max_tokens))

    @property
    def vocabulary(self) -> int:
        """Returns the number of token ids that the tokenizer can produce."""
        return max(_tokenizer(self.tokenizer_json, self.max_tokens).get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Returns token ids, int32 [t] each, special tokens included, cut at `max_tokens`."""
        return self.encode_counting(texts, max_tokens)[0]

    def encode_counting(self, texts: Sequence[str], max_tokens: int | None = None) -> tuple[list[np.ndarray], int]:
        """Returns the rows of `encode`, and the number of texts that were cut."""
        encodings = self._at(max_tokens).encode_batch_fast(list(texts))
        cut = sum(bool(e.overflowing) for e in encodings)
        return [np.asarray(e.ids, np.int32) for e in encodings], cut

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None, *, segments: bool = True
    ) -> tuple[list[np.ndarray], int]:
        """Returns each pair as one row by the tokenizer's template, and the number of pairs that were cut.

        A pair is cut from its longer side. Rows are int32 [t,2], ids and segments. Without `segments`, for a backbone
        that has none, they are ids alone, [t].
        """
        encodings = self._at(max_tokens).encode_batch_fast(list(pairs))
        cut = sum(bool(e.overflowing) for e in encodings)
        if not segments:
            return [np.asarray(e.ids, np.int32) for e in encodings], cut
        return [np.stack([e.ids, e.type_ids], axis=1).astype(np.int32) for e in encodings], cut

    def encode_words(
        self, sentences: Sequence[Sequence[str]], max_tokens: int | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray], int]:
        """Encodes words joined by spaces: ids int32 [t], places int [W] of first sub-words, number of rows cut.

        A place is -1 for a word beyond the cut. A word for which the tokenizer gives no token (control characters) is
        read as "?", so that every word has a place.
        """
        rows, places, cut = [], [], 0
        tokenizer = self._at(max_tokens)
        for words, encoding in zip(sentences, tokenizer.encode_batch([" ".join(s) for s in sentences]), strict=True):
            first = _first_subwords(words, encoding)
            lost = first < 0
            if encoding.overflowing:
                lost[_beyond_the_cut(tokenizer, first)] = False
            if lost.any():
                words = [STAND_IN if gone else word for word, gone in zip(words, lost, strict=True)]
                encoding = tokenizer.encode(" ".join(words))
                first = _first_subwords(words, encoding)
            rows.append(np.asarray(encoding.ids, np.int32))
            places.append(first)
            cut += bool(encoding.overflowing)
        return rows, places, cut

    def uncut(self) -> Tokenizer:
        """Returns the tokenizer that neither cuts nor pads."""
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _at(self, max_tokens: int | None) -> Tokenizer:
        """Returns the tokenizer that cuts at `max_tokens`."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        if not 3 <= limit <= self.max_tokens:
            raise InputError(f"max_tokens: {limit} must lie in 3..{self.max_tokens}, the longest this backbone takes")
        return _tokenizer(self.tokenizer_json, limit)


def _beyond_the_cut(tokenizer: Tokenizer, places: np.ndarray) -> slice:
    """Returns the words beyond the last word that has a place, or before the first where the left side is cut."""
    if not _cuts_left(tokenizer):
        return slice(int(places.argmax()), None)
    return slice(int((places >= 0).argmax()) if (places >= 0).any() else None)


def _first_subwords(words: Sequence[str], encoding: Encoding) -> np.ndarray:
    """Returns the place of each word's first token, int [W], by the characters that it covers; -1 without one."""
    ends = np.cumsum([len(word) + 1 for word in words])
    places = np.full(len(words), -1)
    for place, ((start, end), special) in enumerate(zip(encoding.offsets, encoding.special_tokens_mask, strict=True)):
        if special or end <= start:
            continue
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if places[word] < 0:
            places[word] = place
    return places
