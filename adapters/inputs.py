"""Texts, pairs of texts, or sentences of words, as a head is asked about them, to rows of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.specs import Head
from backbone.buckets import Sides, TokenRow
from backbone.errors import InputError
from backbone.images import ImagePreprocessing
from backbone.storage import Backbone
from backbone.texts import require_unicode


@dataclass(frozen=True)
class Encoded:
    """Rows of token ids."""

    rows: list[TokenRow]
    places: list[np.ndarray]  # first sub-word of each word, -1 beyond the cut; empty unless the head answers by word
    cut: int  # rows, or sides of a pair, longer than `max_tokens`


def checked(head: Head, backbone: Backbone, texts: Sequence[Any]) -> list[Any]:
    """Returns `texts` as the head takes them: str, (str, str) or lists of words; raises InputError for others.

    Images (files or encoded bytes) are checked when they are read.
    """
    if isinstance(texts, str):
        raise InputError("texts: expected a list of texts, got one str; write predict([text])")
    if backbone.spec.image is not None:
        return list(texts)
    return [_checked(head, text, f"texts[{i}]") for i, text in enumerate(texts)]


def _checked(head: Head, text: Any, where: str) -> Any:
    if head.pair != "none":
        sides = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(side, str) for side in text)
        if not sides:
            raise InputError(f"{where}: expected a pair of texts, (str, str), got {_kind(text)}")
        for number, side in enumerate(text):
            if not side.strip():
                raise InputError(f"{where}[{number}]: this side of the pair is missing")
            require_unicode(side, f"{where}[{number}]")
        return tuple(text)
    if head.one_answer_per == "word":
        words = text.split() if isinstance(text, str) else text
        if not isinstance(words, (tuple, list)) or not all(isinstance(word, str) for word in words):
            raise InputError(f"{where}: expected a str or a list of words, got {_kind(text)}")
        if bad := [word for word in words if not word or word != "".join(word.split())]:
            raise InputError(f"{where}: {bad[0]!r} is no word: it is empty or holds white space")
        for word in words:
            require_unicode(word, where)
        return list(words)
    if not isinstance(text, str):
        raise InputError(f"{where}: expected a str, got {_kind(text)}")
    require_unicode(text, where)
    return text


def _kind(value: Any) -> str:
    return type(value).__name__


def encode_inputs(head: Head, backbone: Backbone, texts: Sequence[Any], max_tokens: int) -> Encoded:
    """Returns rows of `texts`, which `checked` has passed, in the form that the head's model reads."""
    preprocessing = backbone.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        return Encoded(list(preprocessing.encode(texts)), [], 0)
    if head.one_answer_per == "word":
        rows, places, cut = preprocessing.encode_words(texts, max_tokens)
        return Encoded(list(rows), places, cut)
    if head.pair == "cross":
        rows, cut = preprocessing.encode_pairs(texts, max_tokens, segments=backbone.spec.segments > 1)
        return Encoded(list(rows), [], cut)
    if head.pair != "none":
        sides, cut = preprocessing.encode_counting([side for pair in texts for side in pair], max_tokens)
        return Encoded([Sides(*both) for both in zip(sides[::2], sides[1::2], strict=True)], [], cut)
    rows, cut = preprocessing.encode_counting(texts, max_tokens)
    return Encoded(list(rows), [], cut)
