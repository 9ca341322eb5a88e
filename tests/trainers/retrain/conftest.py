"""A place to retrain in."""

from __future__ import annotations

import pytest

from backbone.home import home
from tests.trainers.retrain.place import Place


@pytest.fixture
def place(tmp_path, tiny_path, capsys, monkeypatch) -> Place:
    """In a home of its own, where no state is cached; compiled programs are shared."""
    programs = home() / "programs"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "programs").symlink_to(programs)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    return Place(tmp_path, tiny_path, capsys)
