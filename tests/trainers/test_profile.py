"""The verb `profile`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from adapters.artefact.manifest import read_manifest
from tests.command import call
from tests.tiny import as_json


def test_a_profile_says_what_a_prediction_costs(config, capsys):
    call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    status, out, err = call("profile", "run/graft", "--plot", "roof.svg", "--json", capsys=capsys)
    assert status == 0, err
    found = as_json(out)
    ET.fromstring(Path("roof.svg").read_text())
    for shape in found["shapes"]:
        assert shape["p50_ms"] <= shape["p95_ms"] <= shape["p99_ms"]
        assert shape["rows_per_second"] == pytest.approx(1e3 * shape["batch"] / shape["p50_ms"])
        assert shape["intensity"] == pytest.approx(shape["flops"] / shape["bytes_moved"])
        assert shape["joules_quality"] in ("modelled", "measured_counter")
    assert found["content_id"] == read_manifest(Path("run/graft")).content_id
    assert found["roofline_gflops"] > 1
    status, out, _ = call("profile", "run/graft", capsys=capsys)
    assert "rows x tokens" in out
