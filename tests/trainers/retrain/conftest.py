"""A place to retrain in."""

from __future__ import annotations

import pytest

from tests.home import linked
from tests.trainers.retrain.place import Place


@pytest.fixture
def place(tmp_path, tiny_path, capsys, monkeypatch) -> Place:
    """In a home of its own, where no state is cached; compiled programs are shared."""
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
    return Place(tmp_path, tiny_path, capsys)
