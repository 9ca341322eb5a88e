"""A tokenizer is tried on texts before it is stored: a fault in it is found at the import, not in row 100,000.

The texts hold a character of every block of 256 in Unicode's planes, alone and in words, so that at least one of them
is unknown to any vocabulary. Further texts are blank, empty, of control characters, or one very long word.
"""

from __future__ import annotations

import unicodedata

from backbone.errors import InputError
from backbone.exchange.published_tokenizer import tokenizers_errors
from backbone.exchange.tokenizer_files import SAVE
from backbone.preprocessing import TextPreprocessing

_BLOCK = 0x100  # characters between two that are tried


def trial_texts() -> tuple[str, ...]:
    """Returns the texts that every tokenizer is tried on."""
    known = [chr(code) for code in range(0x21, 0x20000, _BLOCK) if unicodedata.category(chr(code)) != "Cs"]
    words = [f"a{letter}b" for letter in known]
    rare = ["\x00\x07\x1b", " \t\n\u00a0\u2003\u3000", "", "e\u0301\u0308", "\U0001f469\u200d\U0001f680", "x" * 300]
    return (" ".join(known), " ".join(words), *known[:64], *rare, "A word, 3 numbers & [MASK].")


def require_usable(preprocessing: TextPreprocessing, vocabulary: int, where: str) -> None:
    """Raises InputError naming `where` if a tokenizer fails, gives no token, or ids beyond `vocabulary` embeddings."""
    if preprocessing.vocabulary > vocabulary:
        raise InputError(
            f"{where}: it produces ids up to {preprocessing.vocabulary - 1}, but the weights embed "
            f"{vocabulary} tokens: the tokenizer belongs to another backbone"
        )
    for text in trial_texts():
        with tokenizers_errors(where, f"fails on the text {text[:20]!r}"):
            (row,) = preprocessing.encode([text])
        if not len(row):
            raise InputError(
                f"{where}: the text {text[:20]!r} gives no token: post_processor: expected a template with special "
                f"tokens, such as [CLS], around each text; {SAVE}"
            )
        if row.max() >= vocabulary:
            raise InputError(
                f"{where}: the text {text[:20]!r} gives id {row.max()}, but the weights embed {vocabulary} tokens; "
                f"take the tokenizer that belongs to the weights"
            )
