"""`curate` and runs on subsets: the same rows both ways, repaired labels, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.command import call
from tests.tiny import as_json, rows, write_csv
from trainers.config.load import load_config
from trainers.curation.select import with_subset
from trainers.inputs import prepare
from trainers.runs.run import Run
from trainers.train import train

DEV = ("--set", "data.dev_fraction=0.2")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curated(config, capsys, *words, output="chosen.jsonl"):
    status, out, err = call("curate", config, "--output", output, *words, "--json", capsys=capsys)
    assert status == 0, err
    return as_json(out), read(Path(output))


@pytest.mark.parametrize("method", ["random", "kcentre", "facility", "margin", "forgetting"])
def test_a_file_gives_a_run_the_rows_of_the_subset_and_the_same_development_rows(config, tmp_path, capsys, method):
    result, lines = curated(config, capsys, "--method", method, "--share", "0.25", *DEV)
    settings = [f"subset.method={method}", "subset.share=0.25", "data.dev_fraction=0.2"]
    run = Run(Path(), show=False)
    subset = with_subset(prepare(load_config(config, settings), run), run)
    of_file = prepare(load_config(config, [f"data.train={tmp_path / 'chosen.jsonl'}", settings[2]]), run)
    assert len(subset.train) == result["chosen"] == round(0.25 * result["rows"])
    for split in ("train", "dev", "test"):
        one, other = subset.data.tables[split], of_file.data.tables[split]
        assert sorted(zip(one.texts, one.labels, strict=True)) == sorted(zip(other.texts, other.labels, strict=True))
    assert len(lines) == result["chosen"] + result["held_out"]
    assert all(line["reason"].startswith(f"{method}: ") or line["reason"] == "held out: dev" for line in lines)
    assert sum(chosen for chosen, _ in result["labels"].values()) == result["chosen"]
    known = {(row.split(",")[0], row.split(",")[1]) for row in (tmp_path / "train.csv").read_text().splitlines()[1:]}
    assert {(line["text"], line["label"]) for line in lines} <= known
    assert f"--set subset.method={method} --set subset.share=0.25" in result["settings"]


def test_labels_are_repaired_in_the_open(config, tmp_path, capsys):
    table = rows(400, seed=11)
    wrong = set(random.Random(0).sample(range(400), 40))
    others = {"class0": "class1", "class1": "class2", "class2": "class0"}
    planted = [(t, others[label] if i in wrong else label) for i, (t, label) in enumerate(table)]
    write_csv(tmp_path / "train.csv", planted)
    true = dict(table)
    clean = {name: sum(true[one["text"]] == one["label"] for one in lines) / len(lines) for name, lines in (
        (name, curated(config, capsys, "--suspects", name, *DEV, output=f"{name}.jsonl")[1])
        for name in ("show", "leave", "relabel")
    )}  # fmt: skip
    assert clean["show"] < clean["leave"]
    assert clean["show"] < clean["relabel"]
    result, lines = curated(config, capsys, "--suspects", "relabel", "--share", "0.5", *DEV)
    assert {one["done"] for one in result["doubted"]} == {"relabelled"}
    assert not result["settings"], "no setting repairs labels"
    changed = [line for line in lines if "relabelled from" in line["reason"]]
    assert changed
    assert all(line["label"] != line["reason"].partition("from ")[2].partition(",")[0] for line in changed)
    shown, lines = curated(config, capsys, "--suspects", "show", *DEV, output="again.jsonl")
    doubted = [line for line in lines if "label doubted" in line["reason"]]
    assert len(doubted) == len(shown["doubted"])


def test_near_duplicates_are_left_out_by_name(config, tmp_path, capsys):
    table = rows(120, seed=5)
    write_csv(tmp_path / "train.csv", [*table, *((text.upper(), label) for text, label in table[:10])])
    near = ("--set", "subset.near=0.9999", "--set", "data.dev_fraction=0")
    result, lines = curated(config, capsys, *near)
    assert result["chosen"] == len(lines) == 120 - _copies(table)
    assert len(result["near"]) == 10 + _copies(table)
    status, out, _ = call("curate", config, "--output", "other.jsonl", *near, capsys=capsys)
    assert status == 0
    assert f"near-duplicates left out: {10 + _copies(table)}" in out


def _copies(table) -> int:
    return len(table) - len(set(table))


def test_a_run_learns_from_its_subset_and_is_scored_on_every_development_row(config, tmp_path):
    settings = ["data.dev_fraction=0.2", "plan.stages=top(1)", "epochs=1", "batch_size=8"]
    settings += ["subset.method=kcentre", "subset.share=0.25"]
    inputs = prepare(load_config(config, settings), Run(Path(), show=False))
    assert inputs.dev is not None
    part = train(load_config(config, settings), tmp_path / "part")
    assert len(inputs.train) > 150
    assert 0.25 * len(inputs.train) / 8 <= part.steps <= 0.25 * len(inputs.train) / 8 + 2, "two lengths of rows"
    assert [one.rows for one in part.estimates if one.split == "dev"] == [len(inputs.dev)]


def test_the_cache_limit_is_kept(config, capsys):
    _, lines = curated(config, capsys, "--method", "facility", "--share", "0.1")
    for number, room in enumerate(("plan.cache=none", "plan.cache_gib=1e-6")):
        _, others = curated(
            config, capsys, "--method", "facility", "--share", "0.1", "--set", room, output=f"room{number}.jsonl"
        )
        assert [line["where"] for line in others] == [line["where"] for line in lines]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "chosen.csv"), "name a file that ends in .jsonl"),
        (("--output", "config.py.jsonl"), "exists already; name a new file"),
        (("--output", "nowhere/chosen.jsonl"), "there is no folder nowhere"),
        (("--output", "a.jsonl", "--method", "kcentre"), "kcentre chooses among the rows; name a share below 1"),
        (("--output", "a.jsonl", "--method", "nothing"), "'nothing' is unknown"),
        (("--output", "a.jsonl", "--share", "0"), "argument --share: must lie in (0, 1]"),
        (("--output", "a.jsonl", "--share", "0.004"), "are fewer than the 3 labels"),
        (
            ("--output", "a.jsonl", "--suspects", "show", "--set", "head.kind=multi_label"),
            "--suspects: needs head.kind",
        ),
        (("--output", "a.jsonl", "--set", "data.train="), "data.train"),
    ],
)
def test_bad_input_is_refused(config, tmp_path, capsys, words, message):
    (tmp_path / "config.py.jsonl").write_text("")
    status, _, err = call("curate", config, *words, capsys=capsys)
    assert status == 2
    assert message in err
    assert not (tmp_path / "a.jsonl").exists()
