"""A graft that is meant for another platform is not served here; without a platform it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backbone.errors import InputError
from serving.live.loading import load_for_serving
from tests.grafts import EMPTY, make


@pytest.mark.parametrize("platform", ["", "cpu", "gpu"])
def test_the_platform_of_the_target(platform, tiny, tmp_path):
    make(tmp_path / "graft", tiny, training=replace(EMPTY, config={"target": {"platform": platform}}))
    if platform in ("", "cpu"):
        assert load_for_serving(tmp_path / "graft", tiny).manifest is not None
    else:
        with pytest.raises(InputError, match="the graft is to answer on gpu, this server runs on cpu"):
            load_for_serving(tmp_path / "graft", tiny)
