"""`topgraft registry ACTION`: what it prints and how it ends."""

from __future__ import annotations

import getpass
import json

import pytest

import topgraft
from tests.registry.support import flip
from tests.tiny import as_json


@pytest.fixture
def call(url, store, capsys):
    """Runs an action with --json; returns its exit status and its answer."""

    def run(action: str, *words: object):
        place = ["--registry", url, "--store", str(store.root), "--json"]
        status = topgraft.main(["registry", action, *map(str, words), *place])
        return status, as_json(capsys.readouterr().out)

    return run


def test_a_life_of_a_task(call, grafts, store, tmp_path, capsys, url):
    for number, graft in enumerate(grafts[:3], 1):
        status, version = call("publish", graft, "--task", "support")
        assert (status, version["number"]) == (0, number)
        assert version["created_at"] == call("show", "support", number)[1]["created_at"], "a time in words"
    assert call("publish", grafts[3])[1]["task"] == "t", "the name in its manifest"
    assert call("publish", grafts[3], "--task", "support", "--parent", 1)[1]["parent"] == 1
    status, live = call("promote", "support", 1, "--reason", "first")
    assert (status, live["version"], live["generation"]) == (0, 1, 1)
    assert call("promote", "support", 2, "--reason", "better", "--expect", 1)[1]["generation"] == 2
    status, told = call("promote", "support", 3, "--reason", "late", "--expect", 1)
    assert status == told["exit"] == 75
    assert "expected generation 1, found 2: version 2" in told["error"]

    rows = call("list")[1]["rows"]
    assert [(row["task"], row["live"], row["generation"]) for row in rows] == [("support", 2, 2), ("t", None, 0)]
    page = call("list", "support", "--limit", 2, "--before", 4)[1]["rows"]
    assert [(row["version"], row["state"]) for row in page] == [(3, "published"), (2, "live")]
    shown = call("show", "support")[1]
    assert (shown["number"], shown["live"], shown["generation"]) == (2, True, 2)
    assert [(e["from_version"], e["to_version"], e["verdict"]) for e in shown["promotions"]] == [(1, 2, "MANUAL")]
    assert shown["promotions"][0]["actor"].startswith(f"{getpass.getuser()}@")
    assert call("show", "t")[0] == 2, "nothing is live: name a version"
    differs = call("diff", "support", 1)[1]["differs"]
    assert differs == {"content_id": [call("show", "support", n)[1]["content_id"] for n in (1, 2)]}
    assert call("diff", "support", 1, 4)[1]["differs"]["parent"] == [None, 1]

    assert call("rollback", "support", "--reason", "worse", "--actor", "me")[1]["version"] == 1
    assert call("rollback", "support", "--reason", "worse")[0] == 2
    assert call("audit") == (0, {"tasks": 2, "versions": 5, "collected": 0, "promotions": 3, "orphans": []})
    assert call("gc", "--keep", 0, "--dry-run")[1]["versions"] == {"support": [3, 4], "t": [1]}
    assert call("gc", "--keep", 0)[1]["versions"] == {"support": [3, 4], "t": [1]}
    status, told = call("export", "--out", tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert told["lines"]["promotions"] == 3
    assert [line["to_version"] for line in lines if line["table"] == "promotions"] == [1, 2, 1]
    assert sum(told["lines"].values()) == len(lines)

    place = ["--registry", url, "--store", str(store.root)]
    for words in (["list"], ["list", "support"], ["show", "support"], ["audit"]):
        assert topgraft.main(["registry", *words, *place]) == 0
    assert "support  1     3           -" in capsys.readouterr().out


def test_what_is_damaged_is_not_made_live(call, grafts, store):
    for graft in grafts[:2]:
        call("publish", graft, "--task", "support")
    for number in (1, 2):
        call("promote", "support", number, "--reason", "r")
    damaged = store.path(call("show", "support", 1)[1]["content_id"]) / "graft.safetensors"
    whole = flip(damaged)
    for words in (("promote", "support", 1, "--reason", "r"), ("rollback", "support", "--reason", "r"), ("audit",)):
        status, told = call(*words)
        assert status == told["exit"] == 2
        assert str(damaged.parent) in told["error"]
    assert call("show", "support")[1]["number"] == 2
    damaged.write_bytes(whole)
    assert call("rollback", "support", "--reason", "r")[1]["version"] == 1


def test_what_is_not_there(call, grafts, store, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    assert topgraft.main(["registry", "list"]) == 2
    assert f"none at sqlite:///{tmp_path}/home/registry.db" in capsys.readouterr().err
    assert topgraft.main(["registry", "publish", str(grafts[0])]) == 0
    assert topgraft.main(["registry", "list"]) == 0
    assert "t     -     0" in capsys.readouterr().out
    call("publish", grafts[0], "--task", "support")
    status, told = call("promote", "suport", 1, "--reason", "r")
    assert (status, told["error"]) == (2, "task: 'suport' has no versions; nearest: support")
    store.root.rename(tmp_path / "away")
    status, told = call("promote", "support", 1, "--reason", "r")
    assert status == told["exit"] == 1
    assert "store.json" in told["error"]
