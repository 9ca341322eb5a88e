"""`topgraft prune`: a trained graft with a smaller suffix is stored, opened, scored and served like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import topgraft
from adapters.artefact.manifest import read_manifest
from adapters.export.peft import export_peft
from adapters.graft import Graft
from adapters.specs import Lora
from backbone.errors import InputError
from serving.bank import Envelope, Group
from serving.runtime import Runtime
from tests.command import call
from tests.serving.grafts import TEXTS, graft
from tests.tiny import as_json, write_config
from trainers.config.load import load_config
from trainers.config.pruning import Pruning
from trainers.fitting.warm_start import Start
from trainers.prune import prune
from trainers.train import train

SETTINGS = ("epochs=3", "optimizer.learning_rate=0.01", "plan.stages=top(2)")


@pytest.fixture(scope="module")
def trained(tiny_path, tmp_path_factory) -> tuple[Path, Path]:
    """A config script, and the graft of its run: LoRA in the top two of three blocks."""
    folder = tmp_path_factory.mktemp("trained")
    script = write_config(folder / "config.py", tiny_path, folder)
    return script, Path(train(load_config(script, SETTINGS), folder / "run").graft)


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory) -> Path:
    """The graft with seven tenths of its suffix's operations."""
    folder = tmp_path_factory.mktemp("pruned") / "graft"
    prune(trained[1], folder, Pruning(above=1, flops=0.7))
    return folder


def test_a_pruned_graft_is_stored_scored_and_described(trained, tmp_path, capsys):
    out = tmp_path / "pruned"
    status, stdout, _ = call(
        "prune", trained[1], "--above", 1, "--flops", 0.7, "--out", out, "--json", "--quiet", capsys=capsys
    )
    assert status == 0
    report = as_json(stdout)
    assert 0.65 < report["operations"] <= 0.7
    assert report["after"]["accuracy"] >= report["before"]["accuracy"] - 0.1
    status, stdout, _ = call("evaluate", out, "--json", "--quiet", capsys=capsys)
    scores = as_json(stdout)["metrics"]
    assert status == 0
    assert scores["dev"] == report["after"]
    assert scores["test"]["accuracy"] > 0.85
    status, stdout, _ = call("inspect", out, "--json", capsys=capsys)
    assert status == 0
    assert as_json(stdout)["facts"]["suffix"] == report["blocks"]
    leaves = load_file(out / "graft.safetensors")
    suffix = {path: leaf for path, leaf in leaves.items() if path.startswith("suffix.")}
    assert {path.split(".")[1] for path in suffix} == {"1", "2"}
    assert sum(leaf.nbytes for leaf in suffix.values()) == report["bytes"]
    for block in report["blocks"]:
        prefix = f"suffix.{block['block']}"
        assert suffix[f"{prefix}.attention.output.kernel"].shape == (8 * block["heads"], 32)
        assert suffix[f"{prefix}.mlp.up.kernel"].shape == (32, block["units"])
    before, after = read_manifest(trained[1]), read_manifest(out)
    assert after.content_id != before.content_id
    assert after.training.config["pruned_from"] == before.content_id
    assert after.weights_id == before.weights_id, "the prefix is the trunk's"


def test_the_same_rows_give_the_same_graft(trained, pruned, tmp_path):
    result = prune(trained[1], tmp_path / "again", Pruning(above=1, flops=0.7))
    assert result.content_id == read_manifest(pruned).content_id


def test_a_limit_in_bytes_is_kept(trained, tmp_path):
    result = prune(trained[1], tmp_path / "small", Pruning(above=1, bytes=30_000))
    assert 28_000 < result.bytes <= 30_000


def test_altered_kernels_are_noticed(pruned, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in pruned.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "graft.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "graft.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"graft\.safetensors: sha256 differs"):
        topgraft.load(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"above": 2, "flops": 0.5}, r"^--above: the graft adapts block 1, .* give 1 or less"),
        ({"above": 3, "flops": 0.5}, r"^--above: 3 is not in 0..2"),
        ({"above": 1, "flops": 0.01}, r"^--flops: no mask meets it: one head and one unit in each of 2 blocks"),
        ({"above": 1, "bytes": 100}, r"^--bytes: no mask meets it"),
    ],
)
def test_what_cannot_be_pruned_is_refused(trained, tmp_path, settings, message, tiny):
    with pytest.raises(InputError, match=message):
        prune(trained[1], tmp_path / "out", Pruning(**settings), backbone=tiny)
    assert not (tmp_path / "out").exists()


def test_both_limits_or_none_are_refused():
    for limits in ({}, {"flops": 0.5, "bytes": 100}):
        with pytest.raises(InputError, match=r"^--flops: give one of --flops and --bytes"):
            Pruning(above=1, **limits)


def test_a_pruned_graft_goes_no_further(trained, pruned, tmp_path):
    """Pruned again, trained on, or written for a program that knows no pruned blocks."""
    with pytest.raises(InputError, match="pruned already; prune the graft that it was made from"):
        prune(pruned, tmp_path / "twice", Pruning(above=1, flops=0.5))
    with pytest.raises(InputError, match="a pruned graft is trained no further"):
        train(load_config(trained[0], SETTINGS), tmp_path / "run", start=Start(pruned))
    with pytest.raises(InputError):
        export_peft(pruned, tmp_path / "peft")


def test_a_pruned_graft_is_served_beside_others_on_one_prefix(tiny, trained, pruned):
    """Its rows equal its own answers, and the rows of others theirs, in one batch."""
    small = topgraft.load(pruned, tiny)
    whole = topgraft.load(trained[1], tiny)
    other = graft(tiny, Lora(rank=2, blocks="2:"), seed=3)
    envelope = Envelope.around([one.model for one in (small, whole, other)], slots=4, labels=4)
    assert [group.slots for group in envelope.groups] == [1, 4, 4]
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(16,), max_wait=0.05) as runtime:
        grafts = {"small": small, "whole": whole, "other": other}
        for name, one in grafts.items():
            runtime.load(name, one)
        asked = [(name, text) for text in TEXTS[:4] for name in grafts]
        pending = runtime.submit(asked)
        for (name, text), row in zip(asked, pending, strict=True):
            expected = grafts[name].logits([text])[0]
            np.testing.assert_allclose(row.future.result(120)[: len(expected)], expected, atol=1e-4, err_msg=name)


def test_a_group_takes_only_the_graft_that_it_was_made_for(tiny, pruned):
    small: Graft = topgraft.load(pruned, tiny)
    plain = Envelope((Group(small.model.methods, slots=4),), labels=4)
    with (
        Runtime(tiny, plain, buckets=(24,), batch_sizes=(1,), max_wait=0.0) as runtime,
        pytest.raises(InputError, match="its pruned blocks are not the group's"),
    ):
        runtime.load("small", small)
