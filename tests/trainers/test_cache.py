"""The verb `cache`."""

from __future__ import annotations

import json
from pathlib import Path

from adapters.artefact.manifest import read_manifest
from tests.command import call
from tests.home import linked
from tests.tiny import as_json


def test_cache_room(config, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
    call("train", config, "--workdir", "run", "--set", "plan.stages=top(1)", "--set", "epochs=1", capsys=capsys)
    status, out, _ = call("cache", "stat", "--json", capsys=capsys)
    before = as_json(out)
    assert before["bytes"] > 0
    file = next(Path(before["variants"][0]["folder"]).glob("*.rows"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, out, err = call("cache", "verify", "--json", capsys=capsys)
    assert status == 2
    assert str(file) in err
    status, out, _ = call("cache", "gc", "--max-gib", "0", "--json", capsys=capsys)
    assert status == 0
    assert as_json(out)["removed"]
    assert all(variant["rows"] == 0 for variant in as_json(out)["variants"])
    assert json.loads(json.dumps(as_json(out)))


def test_a_graft_records_the_rows_whose_states_a_cache_held(config, capsys, tmp_path, monkeypatch):
    """Rows that a run stores and reads again are its own work; those of an earlier run are not."""
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
    read, computed = [], []
    for number in range(2):
        words = ("--workdir", f"run{number}", "--set", "plan.stages=top(1)", "--set", "epochs=1", "--json")
        status, out, err = call("train", config, *words, capsys=capsys)
        assert status == 0, err
        computed.append(as_json(out)["rows_computed"])
        read.append(read_manifest(Path(f"run{number}", "graft")).training.rows_read)
    assert read[0] == 0 < computed[0]
    assert 0 < read[1] <= computed[0]
