"""The verb `cache`."""

from __future__ import annotations

import json
from pathlib import Path

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
