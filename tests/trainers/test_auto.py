"""`auto` climbs while it pays, and stops where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import topgraft
from tests.tiny import as_json, rows, write_csv
from tests.trainers.test_main import call, killed_run, run, same
from tests.trainers.test_main import config as config

AUTO = ("--set", "plan.stages=auto", "--set", "data.dev_fraction=0.3", "--set", "epochs=2")


def climbed(config, workdir, *settings, capsys):
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", workdir, *AUTO, *arguments, "--json", capsys=capsys)
    assert status == 0, err
    return as_json(out)


def test_where_a_probe_is_enough_the_probe_is_kept(config, capsys):
    result = climbed(config, "run", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe", "probe_all", "top"]
    assert not result["climb"][2]["kept"]
    assert result["climb"][2]["gain"] <= 0
    assert result["metrics"]["test"]["accuracy"] > 0.9
    page = Path(result["report"]).read_text()
    assert page.count("not kept") >= 1
    assert "<h3>top</h3><svg" in page, "a rung that was trained has its curve, kept or not"
    graft = topgraft.load(result["graft"])
    assert [spec.method for spec in graft.model.methods] == ["probe"]
    assert graft.predict(["ban bas"])


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
def test_the_score_of_a_rung_is_that_of_its_graft(pooling, config, capsys):
    result = climbed(config, "run", "plan.highest=probe", f"head.pooling={pooling}", capsys=capsys)
    assert result["climb"][0]["score"] == result["metrics"]["dev"]["accuracy"]
    _, out, _ = call("evaluate", result["graft"], "--json", capsys=capsys)
    assert as_json(out)["metrics"]["dev"]["accuracy"] == result["climb"][0]["score"]


def test_a_target_ends_the_climb(config, capsys):
    result = climbed(config, "run", "target.min_score=0.5", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    result = climbed(config, "spent", "target.max_cpu_seconds=0.001", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    result = climbed(config, "capped", "plan.highest=probe", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    result = climbed(config, "second", "plan.highest=probe_all", capsys=capsys)
    assert [(r["name"], r["kept"]) for r in result["climb"]] == [("probe", True), ("probe_all", False)]


def hard(tmp_path: Path) -> None:
    """Rows whose label is the parity of two words: no linear head on a mean can tell."""
    table = []
    for text, _ in rows(400, seed=7):
        words = text.split()
        table.append((text, f"class{(words[0] < 'm') ^ (words[-1] < 'm'):d}"))
    write_csv(tmp_path / "train.csv", table[:300])
    write_csv(tmp_path / "test.csv", table[300:])


def test_where_a_probe_is_not_enough_it_climbs_or_says_why(config, tmp_path, capsys):
    hard(tmp_path)
    result = climbed(config, "run", "epochs=6", "optimizer.learning_rate=0.02", capsys=capsys)
    best = result["climb"][0]
    for rung in result["climb"][1:]:
        assert rung["kept"] == (rung["gain"] > 0)
        assert rung["gain"] == pytest.approx(rung["score"] - best["score"])
        best = rung if rung["kept"] else best
    kept = best["name"]
    methods = [spec.method for spec in topgraft.load(result["graft"]).model.methods]
    assert methods == (["probe"] if kept.startswith("probe") else ["lora"])


def test_killed_while_climbing_and_resumed(config, tmp_path, capsys):
    settings = (*AUTO, "--set", "checkpoint_seconds=0.1", "--set", "epochs=8")
    status, _, err = call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    assert status == 0, err
    workdir = tmp_path / "killed"
    top = workdir / "checkpoints" / "top"
    killed_run(config, workdir, lambda: any(p.name.isdigit() for p in top.glob("*")), *settings)
    with (workdir / "top" / "metrics.jsonl").open("ab") as file:  # as a kill, or a bad disk, may leave them
        file.write(b'5\n{"step": null}\n{"step": 1, "train/loss": "x"}\n\xff\xfe')
    run("train", config, "--workdir", workdir, *settings, "--quiet", "--resume")
    same(tmp_path / "whole", workdir)


def test_auto_needs_development_rows_and_a_ladder_is_one_rung(config, capsys):
    status, _, err = call("train", config, "--workdir", "run", *AUTO, "--set", "data.dev_fraction=0", capsys=capsys)
    assert status == 2
    assert "auto decides on development rows" in err
    assert call("plan", config, *AUTO, "--set", "data.dev_fraction=0", capsys=capsys)[0] == 2
    settings = ("--set", "adapter.blocks=:2")
    status, _, err = call("train", config, "--workdir", "low", *AUTO, *settings, capsys=capsys)
    assert status == 2
    assert "leaves out the top block" in err
    result = climbed(config, "ladder", "adapter.method=ladder", capsys=capsys)
    assert result["climb"] == []
    assert result["metrics"]["test"]["accuracy"] > 0.85
    assert [spec.method for spec in topgraft.load(result["graft"]).model.methods] == ["ladder"]
