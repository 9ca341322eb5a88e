"""Lengths of inputs in tokens: estimated from the text, before a tokenizer is there, or counted. Imports no jax.

The estimate splits a text as BERT does, at blanks, punctuation and every Chinese or Japanese character, and cuts words
into pieces of seven letters. On English and on tweets its 99th percentile is within 15 % of BERT's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"  # characters that are words by themselves
_ALONE = re.compile(f"[{_WIDE}]")
_PIECE = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+|[^\w\s\0]")
LETTERS = 7  # letters of a piece of a word
SPECIAL = 2  # tokens around a text; one more for the second of a pair
ROOM = 1.1  # tokens of a real tokenizer for each estimated one, at most
CUTS = (32, 64, 128, 256, 512)  # values of data.max_tokens that are chosen


@dataclass(frozen=True)
class Lengths:
    """Lengths of the inputs in tokens, and what a run would cut."""

    mean: float
    median: int
    p99: int  # 99 % of the inputs are no longer
    max: int
    max_tokens: int  # tokens of the longest input that is not cut
    cut: int  # rows that are cut
    estimated: bool  # no tokenizer has counted

    def __str__(self) -> str:
        about = "about " * self.estimated
        cut = f"{about}{self.cut} cut" if self.cut else "none cut"
        most = f"99 % up to {self.p99}, longest {self.max}"
        return f"median {about}{self.median}, {most}; max_tokens {self.max_tokens}: {cut}"


def word_count(text: str) -> float:
    """Returns the words of a text; in Chinese and Japanese, where no blanks part them, two characters are a word."""
    wide = 0 if text.isascii() else len(_ALONE.findall(text))
    return len(text.split()) + wide / 2


def estimate(content: str) -> int:
    """Returns about how many tokens a text has, or a pair with NUL between."""
    pieces = sum(1 + (len(piece) - 1) // LETTERS for piece in _PIECE.findall(content))
    return pieces + SPECIAL + content.count("\0")


def lengths_of(tokens: Sequence[int], max_tokens: int, cut: int | None = None) -> Lengths:
    """Returns the lengths of inputs, of which `tokens` holds one or more.

    They are estimates, of evenly spaced inputs, unless `cut` counts the inputs that a tokenizer has cut.
    """
    ordered = sorted(tokens)
    last = len(ordered) - 1
    mean = round(sum(ordered) / len(ordered), 2)
    longer = sum(count > max_tokens for count in ordered) if cut is None else cut
    return Lengths(mean, ordered[last // 2], ordered[int(0.99 * last)], ordered[-1], max_tokens, longer, cut is None)


def chosen_max_tokens(p99: int, limit: int | None) -> int:
    """Returns a data.max_tokens for inputs of which 99 % have up to `p99` estimated tokens; `limit` is a backbone's."""
    tokens = next((cut for cut in CUTS if p99 * ROOM <= cut), CUTS[-1])
    return tokens if limit is None else min(tokens, limit)
