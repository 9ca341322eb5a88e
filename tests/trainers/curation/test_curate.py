"""`curate` and runs on subsets: the same rows both ways, repaired labels, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.command import call
from tests.tiny import WORDS, as_json, rows, write_csv
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
    by_place = {line["where"]: line for line in lines}
    for one in result["doubted"]:
        line = by_place.get(one["where"])
        assert one["done"] == ("not chosen" if line is None else "relabelled")
        assert line is None or line["label"] == one["instead"]
    assert {one["done"] for one in result["doubted"]} == {"not chosen", "relabelled"}
    counted = {
        name: sum(line["label"] == name for line in lines if "held out" not in line["reason"]) for name in others
    }
    assert {name: chosen for name, (chosen, _) in result["labels"].items()} == counted
    assert (result["settings"], result["no_settings"]) == ("", "no setting repairs labels")
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


def prepared(config, file: Path, *settings: str) -> list[tuple[str, tuple[str, ...]]]:
    table = prepare(load_config(config, [f"data.train={file}", *settings]), Run(Path(), show=False)).data.tables[
        "train"
    ]
    return sorted(zip(table.texts, table.labels, strict=True))


def test_names_that_are_digits_are_read_back_as_they_were(config, tmp_path, capsys):
    """Two of the names 1, 2 and 3 are numbers of other labels too."""
    for name in ("train", "test"):
        write_csv(tmp_path / f"{name}.csv", [(text, str(int(label[-1]) + 1)) for text, label in rows(90, seed=4)])
    settings = ("data.label_names=1,2,3", "data.dev_fraction=0")
    curated(config, capsys, *(word for one in settings for word in ("--set", one)))
    before = prepared(config, tmp_path / "train.csv", *settings)
    assert {label for _, (label,) in before} == {"1", "2", "3"}
    assert prepared(config, tmp_path / "chosen.jsonl", *settings) == before


@pytest.mark.parametrize("cells", [("[1, 0]", "[0, 1]", "[1, 1]"), ("a", "b", "a|b")])
def test_several_labels_are_written_in_the_way_of_the_other_files(config, tmp_path, capsys, cells):
    for name in ("train", "test"):
        write_csv(tmp_path / f"{name}.csv", [(text, cells[int(label[-1])]) for text, label in rows(60, seed=4)])
    settings = ("head.kind=multi_label", "data.label_names=a,b", "data.dev_fraction=0")
    curated(config, capsys, *(word for one in settings for word in ("--set", one)))
    one, other = (
        prepare(load_config(config, [f"data.train={tmp_path / name}", *settings]), Run(Path(), show=False)).data.tables
        for name in ("train.csv", "chosen.jsonl")
    )
    for split in ("train", "test"):
        rows_of = [sorted(zip(part[split].texts, part[split].labels, strict=True)) for part in (one, other)]
        assert rows_of[0] == rows_of[1]


def test_columns_of_the_config_keep_their_cells_beside_the_notes(config, tmp_path, capsys):
    for name in ("train", "test"):
        write_csv(tmp_path / f"{name}.csv", rows(90, seed=len(name)), header=("where", "reason"))
    settings = ("data.text=where", "data.label=reason", "data.dev_fraction=0")
    _, lines = curated(config, capsys, *(word for one in settings for word in ("--set", one)))
    assert prepared(config, tmp_path / "chosen.jsonl", *settings) == prepared(config, tmp_path / "train.csv", *settings)
    assert all(line["where_"].startswith(str(tmp_path)) and line["reason_"] == "random: drawn" for line in lines)


@pytest.mark.parametrize("suspects", ["leave", "relabel"])
def test_a_label_that_is_doubted_throughout_keeps_its_least_doubted_row(config, tmp_path, capsys, suspects):
    table = rows(200, seed=11)
    known = WORDS[::6]
    wrong = [(" ".join(known[first : first + 10]), "other") for first in (0, 10, 20)]  # all words of another label
    write_csv(tmp_path / "train.csv", [*table, *wrong])
    result, lines = curated(config, capsys, "--suspects", suspects, "--set", "data.dev_fraction=0")
    doubted = [one for one in result["doubted"] if one["label"] == "other"]
    assert len(doubted) == len(wrong), "the probe doubts the whole label"
    (kept,) = [one for one in doubted if one["done"] == "kept"]
    assert kept["confidence"] == max(one["confidence"] for one in doubted)
    others = [line["where"] for line in lines if line["label"] == "other"]  # also a row that is relabelled to it
    assert {one["where"] for one in doubted} & set(others) == {kept["where"]}
    assert result["labels"]["other"] == [len(others), len(wrong)]


def test_no_settings_are_named_where_a_run_chooses_among_fewer_rows(config, capsys):
    """Of a run with early exits the calibration rows are no rows to choose among."""
    exits = ("exits.boundaries=1", "exits.extra_error=0.3", "exits.share=0.3", "adapter.method=lora")
    words = [word for one in (*exits, "plan.stages=top(1)") for word in ("--set", one)]
    status, out, _ = call("curate", config, "--share", "0.5", "--output", "chosen.jsonl", *words, capsys=capsys)
    assert status == 0
    assert "no settings do the same without the file: a run with exits.boundaries sets calibration rows apart" in out


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
