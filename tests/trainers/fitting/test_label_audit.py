"""The audit of labels: `check --audit`."""

from __future__ import annotations

import random

from tests.command import call
from tests.tiny import as_json, rows, write_csv
from trainers.data.copies import Copies
from trainers.fitting.label_audit import LabelAudit, Suspect


def test_planted_errors_are_found(config, tmp_path, capsys):
    table = rows(400, seed=11)
    draw = random.Random(0)
    wrong = set(draw.sample(range(400), 40))
    others = {"class0": "class1", "class1": "class2", "class2": "class0"}
    table = [(t, others[label] if i in wrong else label) for i, (t, label) in enumerate(table)]
    write_csv(tmp_path / "train.csv", [*table, (table[0][0].upper(), "class1"), (table[0][0], "class2")])
    settings = ("--set", "data.dev_fraction=0.2")
    status, out, err = call("check", config, "--audit", *settings, "--json", capsys=capsys)
    assert status == 0, err
    audit = as_json(out)
    assert audit["rows"] == 402, "those held out for development too"
    hits = [int(s["where"].rpartition(":")[2]) - 2 in wrong for s in audit["suspects"]]
    assert sum(hits[:20]) / 20 > 0.9, "precision on planted errors, the most suspect first"
    assert sum(hits) / len(hits) > 0.7
    assert sum(hits) / len(wrong) > 0.6, "recall"
    assert audit["duplicates"][0]["conflict"]
    assert len(audit["duplicates"][0]["where"]) == 3
    status, out, _ = call("check", config, "--audit", *settings, "--max-suspects", "5", "--json", capsys=capsys)
    assert len(as_json(out)["suspects"]) == 5
    for room in ("plan.cache=none", "plan.cache_gib=1e-6"):
        status, out, err = call("check", config, "--audit", *settings, "--set", room, "--json", capsys=capsys)
        assert status == 0, err
        assert {s["where"] for s in as_json(out)["suspects"]} == {s["where"] for s in audit["suspects"]}
    status, _, err = call("check", config, "--audit", "--set", "data.train=", capsys=capsys)
    assert status == 2
    assert "data.train" in err
    status, _, err = call("check", config, "--audit", "--set", "head.kind=multi_label", capsys=capsys)
    assert status == 2
    assert "does not state that it supports audit" in err


def test_a_wrong_label_that_is_there_twice_does_not_vouch_for_itself(config, tmp_path, capsys):
    table = rows(200, seed=11)
    wrong = (table[0][0], "class1" if table[0][1] != "class1" else "class2")
    write_csv(tmp_path / "train.csv", [*[wrong] * 6, *table[1:]])
    status, out, err = call("check", config, "--audit", "--json", capsys=capsys)
    assert status == 0, err
    lines = [int(s["where"].rpartition(":")[2]) for s in as_json(out)["suspects"]]
    assert set(lines[:6]) == {2, 3, 4, 5, 6, 7}


def test_people_get_headings_and_numbers_that_are_no_zeros():
    suspects = (Suspect("a.csv:2", "x" * 200, "one", "two", 0.0000123),)
    copies = (Copies(("a.csv:3", "a.csv:9"), ("one", "two"), across=False, conflict=True),)
    assert LabelAudit(240, suspects, copies).table().splitlines() == [
        "240 rows audited",
        "",
        "rows whose label is probably wrong, the most suspect first: 1",
        "  a.csv:2: one, probably two (one: 1.2e-05)",
        f"      {'x' * 107}...",
        "",
        "texts that are there more than once: 1",
        "  labels differ: a.csv:3 one, a.csv:9 two",
    ]


def test_files_are_audited_together_without_a_config(tiny_path, tmp_path, capsys):
    table = rows(120, seed=11)
    wrong = (table[0][0], "class1" if table[0][1] != "class1" else "class2")
    first = write_csv(tmp_path / "train.csv", [wrong, *table[1:100]], ("body", "kind"))
    second = write_csv(tmp_path / "test.csv", table[100:], ("body", "kind"))
    settings = ("--set", f"backbone={tiny_path}", "--max-suspects", "8", "--json")
    status, out, err = call("check", second, first, "--audit", *settings, capsys=capsys)
    assert status == 0, err
    audit = as_json(out)
    assert audit["rows"] == 120
    assert f"{first}:2" in [suspect["where"] for suspect in audit["suspects"]]


def test_the_number_of_suspects_needs_an_audit(config, capsys):
    status, _, err = call("check", config, "--max-suspects", "3", capsys=capsys)
    assert status == 2
    assert "add --audit" in err
