"""`auto` climbs while it pays, and stops where it does not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import topgraft
from tests.command import call, killed_run, run, same, tensors
from tests.tiny import WORDS, as_json, rows, write_csv

AUTO = ("--set", "plan.stages=auto", "--set", "data.dev_fraction=0.3", "--set", "epochs=2")
ALL = "plan.trials=all"
WORDY = ("card_lost", "refund", "topUp")


def climbed(config, workdir, *settings, capsys):
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", workdir, *AUTO, *arguments, "--json", capsys=capsys)
    assert status == 0, err
    return as_json(out)


def test_where_a_probe_is_enough_the_probe_is_kept(config, capsys):
    result = climbed(config, "run", ALL, capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe", "probe_all", "top"]
    assert not result["climb"][2]["kept"]
    assert result["climb"][2]["gain"] <= 0
    assert result["metrics"]["test"]["accuracy"] > 0.9
    page = Path(result["report"]).read_text()
    assert page.count("not kept") >= 1
    assert "<h3>top</h3><div class=wide><svg" in page, "a rung that was trained has its curve, kept or not"
    graft = topgraft.load(result["graft"])
    assert [spec.method for spec in graft.model.methods] == ["probe"]
    assert graft.predict(["ban bas"])


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
def test_the_score_of_a_rung_is_that_of_its_graft(pooling, config, capsys):
    write_csv(Path("dev.csv"), rows(60, seed=7))
    result = climbed(config, "run", "plan.highest=probe", f"head.pooling={pooling}", "data.dev=dev.csv", capsys=capsys)
    assert result["climb"][0]["score"] == result["metrics"]["dev"]["accuracy"]
    _, out, _ = call("evaluate", result["graft"], "--json", capsys=capsys)
    assert as_json(out)["metrics"]["dev"]["accuracy"] == result["climb"][0]["score"]


def test_a_target_ends_the_climb(config, capsys):
    result = climbed(config, "run", "target.min_score=0.5", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    result = climbed(config, "spent", "target.max_cpu_seconds=0.001", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    status, out, err = call("train", config, "--workdir", "budget", *AUTO, "--budget", "0.001", "--json", capsys=capsys)
    assert status == 0, err
    assert [r["name"] for r in as_json(out)["climb"]] == ["probe"]
    (limit,) = as_json(out)["limits"]
    assert limit["name"] == "target.max_cpu_seconds"
    result = climbed(config, "capped", "plan.highest=probe", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe"]
    result = climbed(config, "second", "plan.highest=probe_all", capsys=capsys)
    assert [r["name"] for r in result["climb"]] == ["probe", "probe_all"]


def needles(count: int, seed: int) -> list[tuple[str, str]]:
    """Rows of 12 random words; one of two words, at a random place, is the label.

    In a mean of 12 words a linear head hears both words through the noise of the others; a trained block can wait for
    them alone.
    """
    draw, table = random.Random(seed), []
    for _ in range(count):
        words, label = [draw.choice(WORDS[2:]) for _ in range(12)], draw.randrange(2)
        words[draw.randrange(12)] = WORDS[label]
        table.append((" ".join(words), f"class{label}"))
    return table


def test_where_a_probe_is_not_enough_a_trained_step_is_kept(config, tmp_path, capsys):
    write_csv(tmp_path / "train.csv", needles(900, seed=0))
    write_csv(tmp_path / "test.csv", needles(200, seed=1))
    sites = ("adapter.rank=8", "adapter.sites=attention/*,mlp/*")
    result = climbed(config, "run", "epochs=3", "batch_size=8", ALL, *sites, capsys=capsys)
    steps = {step["name"]: step for step in result["climb"]}
    assert list(steps) == ["probe", "probe_all", "top", "all"]
    top, probes = steps["top"], max(steps["probe"]["score"], steps["probe_all"]["score"])
    assert top["kept"]
    assert top["score"] > 0.985
    assert top["gain"] == pytest.approx(top["score"] - probes)
    assert top["gain"] > 2 * top["noise"] > 0
    assert steps["all"]["gain"] == pytest.approx(steps["all"]["score"] - top["score"])
    assert steps["all"]["kept"] == (steps["all"]["gain"] > 0), "at a tie the cheaper step stays"

    graft = topgraft.load(result["graft"])
    assert [spec.method for spec in graft.model.methods] == ["lora"]
    blocks = {path.split(".")[2] for path in tensors(Path("run")) if path.startswith("adapter")}
    assert blocks == ({"0", "1", "2"} if steps["all"]["kept"] else {"1", "2"})
    assert result["metrics"]["test"]["accuracy"] > 0.98
    _, out, _ = call("evaluate", result["graft"], "--json", capsys=capsys)
    assert as_json(out)["metrics"]["dev"]["accuracy"] == max(top["score"], steps["all"]["score"])


def test_a_trained_step_that_lies_behind_after_an_epoch_is_given_up(config, tmp_path, capsys):
    """The label is which of two words comes first: plain to a probe of the embeddings, slow by gradient."""
    draw, table = random.Random(0), []
    for _ in range(500):
        words, label = [draw.choice(WORDS[::12]), draw.choice(WORDS[6::12])], draw.randrange(2)
        table.append((" ".join(words[:: 1 - 2 * label]), f"class{label}"))
    write_csv(tmp_path / "train.csv", table[:400])
    write_csv(tmp_path / "test.csv", table[400:])
    result = climbed(config, "run", "epochs=4", ALL, capsys=capsys)
    assert [step["name"] for step in result["climb"]] == ["probe", "probe_all", "top"], "and `all` is not tried"
    assert [step["kept"] for step in result["climb"]] == [True, True, False]
    lines = [json.loads(line) for line in Path("run/top/metrics.jsonl").read_text().splitlines()]
    assert sum("dev/accuracy" in line for line in lines) == 1
    assert [spec.method for spec in topgraft.load(result["graft"]).model.methods] == ["probe"]


def test_killed_while_climbing_and_resumed(config, tmp_path, capsys):
    settings = (*AUTO, "--set", ALL, "--set", "checkpoint_seconds=0.1", "--set", "epochs=8")
    status, _, err = call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    assert status == 0, err
    workdir = tmp_path / "killed"
    top = workdir / "checkpoints" / "top"
    killed_run(config, workdir, lambda: any(p.name.isdigit() for p in top.glob("*")), *settings)
    with (workdir / "top" / "metrics.jsonl").open("ab") as file:  # as a kill, or a bad disk, may leave them
        file.write(b'5\n{"step": null}\n{"step": 1, "train/loss": "x"}\n\xff\xfe')
    run("train", config, "--workdir", workdir, *settings, "--quiet", "--resume")
    same(tmp_path / "whole", workdir)


def test_without_development_rows_a_probe_is_chosen_out_of_fold(config, capsys):
    result = climbed(config, "run", "data.dev_fraction=0", capsys=capsys)
    assert [step["name"] for step in result["climb"]] == ["probe", "probe_all"]
    assert set(result["metrics"]) == {"out_of_fold", "test"}
    fold, test = result["estimates"]
    assert (fold["split"], fold["how"], fold["rows"]) == ("train and dev", "out of fold", 240)
    assert (test["split"], test["how"], test["rows"]) == ("test", "test", 80)
    assert "<td>out of fold</td>" in Path(result["report"]).read_text()
    for estimate in (fold, test):
        assert estimate["low"] <= estimate["value"] <= estimate["high"]


def test_rows_that_were_fitted_are_not_scored_as_development_rows(config, capsys):
    result = climbed(config, "run", capsys=capsys)
    assert set(result["metrics"]) == {"dev", "out_of_fold", "test"}
    _, out, _ = call("evaluate", result["graft"], "--json", capsys=capsys)
    assert set(as_json(out)["metrics"]) == {"test"}
    result = climbed(config, "alone", "data.test=", capsys=capsys)
    status, _, err = call("evaluate", result["graft"], capsys=capsys)
    assert status == 2
    assert "the head was fitted to the development rows" in err
    given = call("evaluate", result["graft"], "--file", "test.csv", "--json", capsys=capsys)[1]
    assert as_json(given)["rows"] == {"test": 80}


def test_auto_grafts_downward_from_the_top_and_a_ladder_is_one_rung(config, capsys):
    settings = ("--set", "adapter.blocks=:2")
    status, _, err = call("train", config, "--workdir", "low", *AUTO, *settings, capsys=capsys)
    assert status == 2
    assert "leaves out the top block" in err
    result = climbed(config, "ladder", "adapter.method=ladder", capsys=capsys)
    assert result["climb"] == []
    assert result["metrics"]["test"]["accuracy"] > 0.85
    assert [spec.method for spec in topgraft.load(result["graft"]).model.methods] == ["ladder"]


@pytest.mark.parametrize(
    ("labels", "rows_a_label", "reads"),
    [(WORDY, 2, True), (("0", "1", "2"), 2, False), (WORDY, 40, False), (("refund", "class3", "topUp"), 2, True)],
)
def test_names_of_labels_are_read_where_they_are_words_and_rows_are_few(labels, rows_a_label, reads, config, caplog):
    table = [(text, labels[number % 3]) for number, (text, _) in enumerate(rows(3 * rows_a_label))]
    write_csv(Path("few.csv"), table)
    settings = ("plan.stages=auto", "plan.highest=probe", "data.train=few.csv", "data.dev_fraction=0", "data.test=")
    arguments = [part for setting in settings for part in ("--set", setting)]
    with caplog.at_level("INFO"):
        assert topgraft.main(["train", str(config), "--workdir", "run", *arguments]) == 0
    assert ("with the names of labels" in caplog.text) == reads
    assert ("class3; their names are not read" in caplog.text) == ("class3" in labels)
    assert sorted(topgraft.load("run/graft").model.labels) == sorted(labels)
