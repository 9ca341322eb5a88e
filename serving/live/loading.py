"""A graft as a server loads it: verified, and meant for this platform."""

from __future__ import annotations

from pathlib import Path

from adapters.graft import Graft, load_graft
from adapters.target import target_of
from backbone.storage import Backbone
from metering.window import platform


def load_for_serving(path: str | Path, backbone: Backbone) -> Graft:
    """Loads and verifies a graft; raises InputError for a damaged one, and for one whose target names another platform.

    The score, latency and memory of a target hold where they were measured, so its platform is no advice.
    """
    graft = load_graft(path, backbone)
    if graft.manifest is not None:
        target_of(graft.manifest).require_platform(platform(), "this server")
    return graft
