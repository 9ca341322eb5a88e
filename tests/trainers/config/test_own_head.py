"""A head of a user's own: the one that `adapters/heads/head.py` shows, through the real commands."""

from __future__ import annotations

import json
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import adapters.heads.head
from adapters.heads.head import Head
from backbone.errors import InputError
from backbone.records import decode, encode
from backbone.variants.registered import VARIANTS
from tests.command import call, run
from tests.tiny import as_json, rows
from trainers.config.load import load_config
from trainers.data.prepare import source_of

SHOWN = re.search(r"\n    from dataclasses import.*?(?=\n\S)", adapters.heads.head.__doc__, re.DOTALL)[0]
HEAD = textwrap.dedent(SHOWN)


def counted(count: int, seed: int) -> str:
    """Texts whose words betray how large their count is, on average 1, 4 or 16."""
    draw = np.random.default_rng(seed)
    lines = ["text,hits"]
    lines += [f"{text},{draw.poisson(4 ** int(label[-1]))}" for text, label in rows(count, seed=seed)]
    return "\n".join(lines)


@pytest.fixture
def script(tmp_path, tiny_path):
    (tmp_path / "train.csv").write_text(counted(240, 1))
    (tmp_path / "test.csv").write_text(counted(80, 2))
    path = tmp_path / "count.py"
    path.write_text(
        HEAD + "\n\nfrom adapters.specs import *\nfrom trainers.config import *\n\n\n"
        "def get_config():\n"
        f"    data = Data(train={str(tmp_path / 'train.csv')!r}, test={str(tmp_path / 'test.csv')!r}, label='hits',\n"
        "                max_tokens=48)\n"
        f"    return TrainConfig(name='hits', backbone={str(tiny_path)!r}, data=data, metric='spearman', epochs=2,\n"
        "        head=Count(dropout=0.1), optimizer=Optimizer(learning_rate=5e-3), plan=Plan(stages='top(1)'))\n"
    )
    yield path
    Head.registry.variants.pop("count", None)  # other tests of this process run over every registered head
    Head.registry.files.pop("count", None)


def test_it_is_trained_scored_asked_and_loaded_again(script, tmp_path, monkeypatch, capsys):
    trained = as_json(run("train", script, "--workdir", "run", "--json").stdout)
    assert trained["metrics"]["test"]["spearman"] > 0.7
    assert trained["metrics"]["test"]["loss"] < -10, "the loss of no weights is 1"
    manifest = json.loads(Path("run/graft/manifest.json").read_text())
    assert manifest["head"] == {"kind": "count", "pooling": "mean", "pair": "none", "dropout": 0.1}
    assert (manifest["labels"], manifest["training"]["variants"]) == (["hits"], {"count": "count.py"})

    refused = run("predict", "run/graft", "--text", "ban", check=False)
    assert refused.returncode == 2
    assert re.search(r"'count' is no variant .*: count\.py defined it .*TOPGRAFT_VARIANTS", refused.stderr)

    monkeypatch.setenv(VARIANTS, str(script))
    status, out, err = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"] == pytest.approx(trained["metrics"]["test"], rel=1e-5)
    assert as_json(out)["confusion"] == {}
    texts = {label: text for text, label in rows(60, seed=5)}
    chosen = [part for label in ("class0", "class2") for part in ("--text", texts[label])]
    status, out, err = call("predict", "run/graft", *chosen, "--json", capsys=capsys)
    assert status == 0, err
    few, many = (answer["value"] for answer in as_json(out)["predictions"])
    assert 0 < few < many
    for command, message in (("export", "its head is count with pair=none"), ("check", "count does not state")):
        words = ("run/graft", "--format", "jax", "--out", "out") if command == "export" else (script, "--audit")
        status, _, err = call(command, *words, capsys=capsys)
        assert (status, message in err) == (2, True), err


def test_a_climb_fits_probes_to_it(script, capsys):
    status, out, err = call(
        "train", script, "--workdir", "run", "--json", "--set", "plan.stages=auto", "--set", "plan.highest=probe_all",
        capsys=capsys,
    )  # fmt: skip
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["spearman"] > 0.7


def test_its_config_and_its_cells_are_checked(script, tmp_path):
    config = load_config(script)
    assert config.head.kind == "count"
    assert decode(Head, encode(config.head)) == config.head
    for change, message in (
        ("metric=accuracy", "metric: 'accuracy' is no metric of head.kind=count; one of spearman, pearson"),
        ("head.dropout=1", "head.dropout: must be at least 0 and below 1"),
        ("exits.boundaries=1", "exits.boundaries: an exit is a classifier of single inputs; it needs head.kind=class"),
        ("data.text_pair=hits", "head.pair: data.text_pair=hits needs cross, two_tower or cosine"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            load_config(script, [change])
    column = config.head.column
    assert column.parse("3", config.data, "f:1") == ("3.0",)
    with pytest.raises(InputError, match=r"f:1: hits: '-1' is no count; it must be at least 0"):
        column.parse("-1", config.data, "f:1")
    labels = config.head.encode([("3.0",), ("0.0",)], ("hits",), ["f:1", "f:2"])
    assert (labels.dtype, labels.tolist()) == (np.float32, [3.0, 0.0])
    logits = np.array([[1.0], [-2.0]], np.float32)
    np.testing.assert_allclose(config.head.loss(logits, labels), [math.e - 3, math.exp(-2)], rtol=1e-6)


def test_rows_are_prepared_again_when_the_code_of_its_column_changes(script):
    first = load_config(script)
    keys = [source_of(first.data, first.head.column).key()]
    script.write_text(script.read_text().replace("is no count", "is not a count"))
    again = load_config(script)
    keys.append(source_of(again.data, again.head.column).key())
    keys.append(source_of(again.data, load_config(script).head.column).key())
    assert keys[0] != keys[1] == keys[2]
