"""Lengths of inputs."""

from __future__ import annotations

import pytest

from trainers.data.lengths import chosen_max_tokens, estimate, lengths_of


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 2),
        ("how is it?", 2 + 4),
        ("internationalisation", 2 + 3),  # twenty letters
        ("a b\0c", 2 + 3 + 1),
        ("\u6211\u4eec", 2 + 2),
        ("don't", 2 + 3),
    ],
)
def test_the_estimate_counts_pieces_of_words(text, tokens):
    assert estimate(text) == tokens


def test_lengths_of_a_hundred_inputs():
    some = lengths_of(list(range(101, 0, -1)), 90)
    assert (some.mean, some.median, some.p99, some.max, some.cut, some.estimated) == (51, 51, 100, 101, 11, True)
    assert str(lengths_of([4, 5, 8], 8, cut=1)) == "median 5, 99 % up to 5, longest 8; max_tokens 8: 1 cut"


@pytest.mark.parametrize(
    ("p99", "limit", "chosen"),
    [(5, None, 32), (29, None, 32), (30, None, 64), (465, None, 512), (9000, None, 512), (9000, 64, 64), (20, 512, 32)],
)
def test_the_chosen_length_has_room_and_is_one_that_the_backbone_takes(p99, limit, chosen):
    assert chosen_max_tokens(p99, limit) == chosen
