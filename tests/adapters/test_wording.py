"""Names of labels as texts."""

from __future__ import annotations

import pytest

from adapters.labels.wording import label_texts


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (("card_not_working", "Refund_not_showing_up"), ("card not working", "Refund not showing up")),
        (("AddToPlaylist", "BookRestaurant"), ("Add To Playlist", "Book Restaurant")),
        (("sci/tech", "world-news"), ("sci tech", "world news")),
        (("größe", "preis"), ("größe", "preis")),
        (("top_up 2", "top_up 3"), ("top up 2", "top up 3")),
        (("label_0", "label_1"), (None, None)),
        (("Class 3", "class4"), (None, None)),
        (("0", "1"), (None, None)),
        (("a", "b"), (None, None)),
        (("joy", "3", "sad_face", "class3"), ("joy", None, "sad face", None)),
        (("joy", "3"), (None, None)),
        (("card_lost", "card lost"), (None, None)),
        (("card_lost", "refund", "card lost", "top up"), (None, "refund", None, "top up")),
        (("__", "!"), (None, None)),
    ],
)
def test_names_that_are_words_become_texts(labels, texts):
    assert label_texts(labels) == texts
