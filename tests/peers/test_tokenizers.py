"""Tokenizers of every family and kind against transformers' `AutoTokenizer`, on 500 strings (`make test-peers`)."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")

from tests.published_tokenizers import FOLDERS, POSITIONS, imported, strings, write_folder  # noqa: E402

TEXTS = [text for texts in strings().values() for text in texts]
SHORT = 12  # tokens of the rows that are cut


def test_there_are_500_strings_of_every_kind():
    assert len(TEXTS) == 500
    assert all(strings().values())


@pytest.mark.parametrize(("family", "kind"), FOLDERS)
def test_ids_equal_those_of_autotokenizer(family, kind, tmp_path):
    folder = write_folder(tmp_path, family, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    preprocessing, _ = imported(folder, family)
    for length in (POSITIONS, SHORT):
        wanted = theirs(TEXTS, truncation=True, max_length=length)["input_ids"]
        for text, row, expected in zip(TEXTS, preprocessing.encode(TEXTS, length), wanted, strict=True):
            assert row.tolist() == expected, (text, length)
    if theirs.pad_token_id is not None and theirs.pad_token_id < 2000:
        assert preprocessing.fill == theirs.pad_token_id


@pytest.mark.parametrize(("family", "kind"), FOLDERS)
def test_pairs_equal_those_of_autotokenizer(family, kind, tmp_path):
    folder = write_folder(tmp_path, family, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    preprocessing, _ = imported(folder, family)
    pairs = list(zip(TEXTS[:100], TEXTS[100:200], strict=True))
    wanted = theirs(
        [a for a, _ in pairs], [b for _, b in pairs], truncation=True, return_token_type_ids=True, max_length=64
    )
    rows, _ = preprocessing.encode_pairs(pairs, 64)
    for pair, row, ids, kinds in zip(pairs, rows, wanted["input_ids"], wanted["token_type_ids"], strict=True):
        assert row.T.tolist() == [ids, kinds], pair
