"""The schema of the rows, where it fits no format."""

from __future__ import annotations

import pytest

from adapters.heads.columns import OneLabel
from backbone.errors import InputError
from trainers.config import Data
from trainers.config.retrain import Column, Schema
from trainers.retrain.schema import check


@pytest.mark.parametrize("data", [Data(train=("x",), format="image_folder"), Data(train=("x", "y"), format="idx")])
def test_a_schema_of_columns_needs_columns(data):
    with pytest.raises(InputError, match=r"schema\.columns: data\.train holds images, which have no columns"):
        check(Schema(columns=(Column(),)), data, {}, OneLabel())


def test_a_schema_reads_lists_in_one_json_file(tmp_path):
    (tmp_path / "lists.json").write_text('{"train": [["some text", "x"]]}')
    data = Data(train=(f"{tmp_path / 'lists.json'}#train",), format="json_lists")
    check(Schema(columns=(Column(),)), data, {}, OneLabel())
    with pytest.raises(InputError, match="at least 100"):
        check(Schema(columns=(Column(min=100),)), data, {}, OneLabel())
