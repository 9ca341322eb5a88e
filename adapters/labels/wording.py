"""The names of labels as texts: `card_not_working` says what its rows are about, `class 3` does not. Imports no jax."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

# words that say that something is a label, not which one
GENERIC = frozenset({"label", "labels", "class", "category", "cat", "type", "tag", "group", "cluster", "topic", "code"})
MIN_LETTERS = 2  # letters of a word that may say something


def label_texts(labels: Sequence[str]) -> tuple[str | None, ...]:
    """Returns each label as plain words; None for a label without a word, and where two have the same ones.

    The words of one label alone tell it from no other, so then every entry is None.
    """
    texts = [" ".join(_words(label)) for label in labels]
    count = Counter(texts)
    named = tuple(text if _says_something(text) and count[text] == 1 else None for text in texts)
    return named if len(named) - named.count(None) > 1 else (None,) * len(named)


def _words(label: str) -> list[str]:
    """Returns the words of a name, at its underscores, marks, blanks, and where `camelCase` begins a new one."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label))


def _says_something(text: str) -> bool:
    words = [word for word in text.lower().split() if not word.isdigit()]
    return any(len(word) >= MIN_LETTERS and word not in GENERIC for word in words)
