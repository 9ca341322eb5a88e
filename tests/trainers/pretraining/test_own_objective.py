"""Objectives that a user's config script defines, through the real command.

One has a head; its class is that of docs/extending.md. The other has none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.storage import read_record
from tests.recipes import recipe
from tests.tiny import as_json
from tests.trainers.pretraining.backbone_runs import call, paragraphs, result_of, settings

REPLACED = (
    recipe("trainers/pretraining/objectives/replaced_tokens.py")
    + """

def get_config():
    from trainers.pretraining.config import BackboneConfig, Corpus, NewBert, Optimizer, WordPiece

    return BackboneConfig(
        name="own", objective=ReplacedTokens(), corpus=Corpus(tokens=32, held_out_fraction=0.1),
        tokenizer=WordPiece(vocabulary=120), network=NewBert(blocks=1, width=32, heads=2, mlp_width=64),
        optimizer=Optimizer(learning_rate=5e-3), steps=120, batch_size=16, evaluate_every=60,
    )
"""
)

HEADLESS = '''
"""Brings the mean states of two halves of a row together: no head, no mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbone.lazy import jnp
from metering.counts import Count
from trainers.pretraining.config import *
from trainers.pretraining.objectives.objective import finished_states, weighted_mean


class Headless(TextObjective):
    def init_head(self, material, rng):
        return {}

    def head_cost(self, material, rows):
        return Count()


@dataclass(frozen=True)
class Halves(Headless, tag="mean_halves"):
    norm: Literal["squared"] = "squared"  # distance of the two means

    def loss(self, material, params, batch, rng, *, dtype="float32", remat=False):
        states = finished_states(material.network, params["backbone"], batch["ids"], dtype=dtype, remat=remat)
        first, second = (half.mean(axis=1) for half in jnp.split(states.astype(jnp.float32), 2, axis=1))
        return weighted_mean(jnp.square(first - second).mean(axis=-1), batch["weights"])


def get_config():
    return BackboneConfig(
        name="halves", objective=Halves(), corpus=Corpus(tokens=32, held_out_fraction=0.1),
        tokenizer=WordPiece(vocabulary=120), network=NewBert(blocks=1, width=32, heads=2, mlp_width=64),
        steps=2, batch_size=16,
    )
'''


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """Returns the folder of `own.py`, `halves.py` and `corpus.txt`; a tag belongs to one file."""
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs(400)), encoding="utf-8")
    (folder / "own.py").write_text(REPLACED, encoding="utf-8")
    (folder / "halves.py").write_text(HEADLESS, encoding="utf-8")
    return folder


@pytest.fixture
def run(scripts, tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command on a script, in a folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, workdir: str, *values: str, resume: bool = False) -> tuple[int, str, str]:
        options = ["--json", *settings(f"corpus.files={scripts / 'corpus.txt'}", *values)]
        options += ["--resume"] if resume else []
        return call("train-backbone", scripts / script, "--workdir", workdir, *options, capsys=capsys)

    return run


def test_an_objective_of_ones_own_learns_stops_resumes_and_is_continued(run, capsys):
    status, out, err = run("own.py", "whole")
    assert status == 0, err
    result = as_json(out)
    assert result["held_out_accuracy"] > 0.8, "seven in ten tokens are original: more than the share of the larger side"
    assert result["held_out_loss"] < 0.45
    assert (result["unigram_entropy"], result["gain"]) == (None, None), "a loss over two sides, not over the vocabulary"
    assert result["costs"]["train"]["flops"] > 0
    stored = json.loads(Path("whole/config.json").read_text())["objective"]
    assert stored == {"kind": "replaced_tokens", "fraction": 0.3}

    assert run("own.py", "parts", "max_seconds=0.001")[0] == 0
    assert not result_of(Path("parts"))["finished"]
    status, out, err = run("own.py", "parts", resume=True)
    assert status == 0, err
    assert as_json(out)["weights_id"] == result["weights_id"]

    values = ("start=whole", "start_head=kept", "network=none", "tokenizer=none", "max_seconds=0.0001")
    status, out, err = run("own.py", "on", *values, "optimizer.warmup_fraction=0.5")
    assert status == 0, err
    assert as_json(out)["held_out_loss"] == result["held_out_loss"], "the first step of a warm-up has a rate of zero"
    status, _, err = run("own.py", "mixed", *values, "objective=masked_tokens")
    assert (status, "tensors do not fit" in err) == (2, True), err

    status, out, err = call("export-backbone", "whole", "--format", "hf", "--out", "hf", "--json", capsys=capsys)
    assert status == 0, err
    report = as_json(out)
    assert (report["architecture"], report["head"]) == ("BertModel", False), "a head of another kind stays behind"
    assert report["weights_id"] == read_record(Path("whole/backbone")).weights_id


def test_an_objective_needs_no_head(run):
    status, out, err = run("halves.py", "run")
    assert status == 0, err
    first = as_json(out)
    values = ("start=run", "start_head=kept", "network=none", "tokenizer=none")
    status, out, err = run("halves.py", "more", *values)
    assert status == 0, err
    assert as_json(out)["held_out_loss"] < first["held_out_loss"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("objective.fraction=1",), "objective.fraction: must lie between 0 and 1, got 1.0"),
        (("objective=replaced_token",), "objective.kind: 'replaced_token' is unknown; nearest: replaced_tokens"),
        (("network=vit",), "network: objective=replaced_tokens needs network.kind=bert, got vit"),
        (("data.train=x",), "data.train: objective=replaced_tokens reads plain text"),
        (("start=IMAGES", "network=none", "tokenizer=none"), "replaced_tokens needs a backbone that reads text"),
    ],
)
def test_it_is_checked_as_those_that_come_with_topgraft(values, message, run, tmp_path):
    from backbone.images import ImagePreprocessing
    from backbone.network.encoder import Network
    from backbone.storage import save_backbone
    from tests.tiny_images import IMAGE, SPEC

    save_backbone(
        tmp_path / "vit", SPEC, Network(SPEC).init(0), ImagePreprocessing(IMAGE, resize=IMAGE.size), {"family": "vit"}
    )
    values = [value.replace("IMAGES", str(tmp_path / "vit")) for value in values]
    status, _, err = run("own.py", "run", *values)
    assert (status, message in err) == (2, True), err
