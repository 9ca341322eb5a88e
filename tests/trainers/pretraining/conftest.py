"""One whole run of a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

import topgraft


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The folder of a run of `place/config.py` that was not interrupted."""
    arguments = ["train-backbone", str(place / "config.py"), "--workdir", str(place / "whole"), "--quiet"]
    assert topgraft.main(arguments) == 0
    return place / "whole"
