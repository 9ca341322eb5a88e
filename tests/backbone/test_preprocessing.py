"""Tokens, buckets and padding."""

from __future__ import annotations

import numpy as np
import pytest

from backbone.buckets import LENGTHS, bucket_of, lengths_up_to, pad
from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from tests.tiny import tokenizer_json


@pytest.fixture(scope="module")
def preprocessing():
    return TextPreprocessing.from_file_text(tokenizer_json(), 64, "tiny")


def test_the_file_s_own_padding_and_truncation_are_switched_off(preprocessing):
    rows = preprocessing.encode(["ban", "ban bas bal " * 30])
    assert [len(r) for r in rows] == [3, 64]
    assert rows[0].tolist()[0] == 2
    assert rows[0].tolist()[-1] == rows[1].tolist()[-1] == 3, "the closing token survives the cut"


def test_cut_rows_are_counted(preprocessing):
    rows, cut = preprocessing.encode_counting(["ban " * 50, "ban", "ban " * 60], 48)
    assert [len(r) for r in rows] == [48, 3, 48]
    assert cut == 2
    with pytest.raises(InputError, match="max_tokens"):
        preprocessing.encode(["ban"], 65)


def test_a_hundred_thousand_characters_and_none(preprocessing):
    assert [len(r) for r in preprocessing.encode(["x" * 100_000, "", "ban " * 25_000])] == [3, 2, 64]


def test_each_rung_of_the_ladder():
    lengths = lengths_up_to(100)
    assert lengths == (8, 12, 16, 20, 24, 32, 48, 64, 96, 100)
    for below, rung in zip((0, *LENGTHS), LENGTHS, strict=False):
        assert bucket_of(below + 1, LENGTHS) == bucket_of(rung, LENGTHS) == rung
    with pytest.raises(InputError, match="exceeds the longest bucket"):
        bucket_of(101, lengths)
    with pytest.raises(InputError, match="max_tokens"):
        lengths_up_to(4)


def test_padding():
    ids, mask = pad([np.array([5, 6]), np.array([7])], 4, fill=1)
    assert ids.tolist() == [[5, 6, 1, 1], [7, 1, 1, 1]]
    assert mask.tolist() == [[True, True, False, False], [True, False, False, False]]
