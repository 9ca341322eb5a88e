"""The backbone that a run of `train-backbone` continues from."""

from __future__ import annotations

from pathlib import Path

from backbone.files import BACKBONE_FILE
from backbone.home import resolve_backbone
from backbone.remote import local


def folder_of_start(start: str) -> Path:
    """Returns the folder of a backbone that a config names; of a run, the one inside."""
    inside = local(start) / "backbone"
    return inside if (inside / BACKBONE_FILE).is_file() else resolve_backbone(start)
