"""The real main with every head: trained, cached below a frozen prefix, stored, asked; killed and resumed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.command import call, killed_run, same
from tests.tiny import WORDS, as_json, rows
from trainers.config.load import load_config
from trainers.plan import plan

KNOWN = WORDS[::6]
OPENING = [word for word in KNOWN if word[0] in "bd"]


def pairs(count: int, seed: int) -> str:
    """Two texts whose words betray a class each: the first's is the label, their sum the score."""
    left, right = rows(count, seed=seed), rows(count, seed=seed + 1)
    lines = ["text\tother\tscore\tlabel"]
    for (a, x), (b, y) in zip(left, right, strict=True):
        first, second = int(x[-1]), int(y[-1])
        a, b = " ".join(a.split()[:4]), " ".join(b.split()[:4])
        lines.append(f"{a}\t{b}\t{1000 + 50 * (first + second)}\tclass{first}")
    return "\n".join(lines)


def sentences(count: int, seed: int) -> str:
    """Words whose first letter betrays their tag: b opens, d continues what is open."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        before = "O"
        for _ in range(draw.choice((4, 5, 9))):
            word = draw.choice(OPENING if draw.random() < 0.5 else KNOWN)
            before = "B-x" if word[0] == "b" else "I-x" if word[0] == "d" and before != "O" else "O"
            lines.append(f"{word} {before}")
        lines.append("")
    return "\n".join(lines)


@pytest.fixture
def config(tiny_path, tmp_path) -> Path:
    """Pairs with a number, read as one row; other tests change what they need."""
    for name, made in (("pairs.tsv", pairs), ("words.bio", sentences)):
        (tmp_path / f"train_{name}").write_text(made(200, 1))
        (tmp_path / f"test_{name}").write_text(made(60, 7))
    script = tmp_path / "config.py"
    script.write_text(
        "from adapters.specs import *\nfrom trainers.config import *\n\n"
        "def get_config():\n"
        f"    data = Data(train={str(tmp_path / 'train_pairs.tsv')!r}, test={str(tmp_path / 'test_pairs.tsv')!r},\n"
        "                text_pair='other', label='score', max_tokens=32)\n"
        f"    return TrainConfig(name='tiny', backbone={str(tiny_path)!r}, data=data, metric='pearson',\n"
        "        head=Regression(pair='cross'), optimizer=Optimizer(learning_rate=5e-3), epochs=2)\n"
    )
    return script


def settings(**values: str) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name.replace('__', '.')}={value}")]


def test_a_number_for_a_pair_read_as_one_row(config, capsys):
    chosen = settings(plan__stages="top(1)")
    status, out, err = call("train", config, "--workdir", "run", "--json", *chosen, capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["pearson"] > 0.8
    assert result["metrics"]["test"]["mse"] < 0.5 * np.var([0, 50, 100, 100, 150, 200]), "in the target's units"
    assert [stage["boundary"] for stage in result["stages"]] == [2]
    manifest = json.loads(Path("run/graft/manifest.json").read_text())
    assert manifest["labels"] == ["score"]
    assert 1050 < manifest["head"]["center"] < 1150

    status, out, _ = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    again = as_json(out)["metrics"]
    assert again["test"] == pytest.approx(result["metrics"]["test"], rel=1e-6)
    assert as_json(out)["confusion"] == {}

    left, right = pairs(1, 9).split("\n")[1].split("\t")[:2]
    Path("pairs.txt").write_text(f"{left}\t{right}\n{right}\t{left}\n")
    asked = ("--text", left, "--text-pair", right, "--file", "pairs.txt")
    status, out, _ = call("predict", "run/graft", *asked, "--json", capsys=capsys)
    answers = as_json(out)["predictions"]
    assert [set(a) for a in answers] == [{"text", "text_pair", "value"}] * 3
    assert answers[0] == answers[1]
    assert 900 < answers[0]["value"] < 1300
    status, _, err = call("predict", "run/graft", "--text", left, capsys=capsys)
    assert (status, "this graft reads pairs: pass --text-pair" in err) == (2, True)
    status, _, err = call("check", config, "--audit", capsys=capsys)
    assert (status, "regression does not state that it supports audit" in err) == (2, True)


def test_two_towers_climb_the_rungs_of_auto(config, capsys):
    chosen = settings(
        plan__stages="auto", head__kind="classification", head__pair="two_tower", head__pooling="attention",
        data__label="label", metric="macro_f1", epochs="1",
    )  # fmt: skip
    status, out, err = call("train", config, "--workdir", "run", "--json", *chosen, capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert [step["name"] for step in result["climb"]][:2] == ["probe", "probe_all"]
    assert result["metrics"]["test"]["macro_f1"] > 0.6
    status, out, _ = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    assert as_json(out)["metrics"]["test"] == pytest.approx(result["metrics"]["test"], abs=1e-6)
    assert sum(map(sum, as_json(out)["confusion"]["test"])) == 60


def test_a_tag_for_each_word_killed_and_resumed(config, tmp_path, capsys):
    chosen = settings(
        head__kind="token_tagging", metric="entity_f1", data__text_pair="", data__label="label", epochs="3",
        plan__stages="geometric(0.5)", checkpoint_seconds="0.1", head_start="probe",
        data__train=str(tmp_path / "train_words.bio"), data__test=str(tmp_path / "test_words.bio"),
    )  # fmt: skip
    status, out, err = call("train", config, "--workdir", "whole", "--json", *chosen, capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["entity_f1"] > 0.5, "without entities it would be 0"
    assert [stage["boundary"] for stage in result["stages"]] == [0, 2]

    folder = tmp_path / "killed" / "checkpoints"
    killed_run(config, folder.parent, lambda: any(p.name.isdigit() for p in folder.glob("*")), *chosen)
    status, _, err = call("train", config, "--workdir", folder.parent, "--resume", *chosen, capsys=capsys)
    assert status == 0, err
    same(tmp_path / "whole", folder.parent)

    words = [w for w in KNOWN if w[0] in "bdf"][:4]
    status, out, _ = call("predict", "whole/graft", "--text", " ".join(words), "--json", capsys=capsys)
    (answer,) = as_json(out)["predictions"]
    assert answer["words"] == words
    assert len(answer["tags"]) == 4
    assert answer["entities"], "a b opens one"
    chosen += settings(adapter__method="probe", plan__stages="all")
    status, out, _ = call("train", config, "--workdir", "probe", "--json", *chosen, capsys=capsys)
    assert as_json(out)["metrics"]["test"]["entity_f1"] > 0.4, "a probe of each word"


def test_a_plan_prices_pairs(config):
    chosen = settings(head__pair="two_tower", epochs="1", plan__stages="top(1)")[1::2]
    found = plan(load_config(config, chosen))
    assert found.stages[0].steps > 0
    assert found.stages[0].cache_bytes > 0
