"""`train-backbone` on labelled images: the real command, on a tiny ViT and tiny pictures."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topgraft
from adapters.heads.columns import OneLabel, SeveralLabels
from backbone.errors import InputError
from backbone.images import ImagePreprocessing, patches
from backbone.network.encoder import Network
from backbone.spec import ImageSpec
from backbone.storage import load_backbone, read_record
from backbone.trees import flatten
from tests.tiny import as_json
from tests.tiny_images import IMAGE, SPEC, write_folder
from tests.trainers.pretraining.backbone_runs import (
    EVALUATED,
    STEPS,
    call,
    first_params,
    killed_and_resumed,
    result_of,
    settings,
)
from trainers.config import Data
from trainers.data.rows import read_rows
from trainers.pretraining.config import BackboneConfig, NewVit, SupervisedImages
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material
from trainers.pretraining.objectives.supervised_images import moved


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folders of 32 and 15 pictures of each class, and `config.py`."""
    root = tmp_path_factory.mktemp("vit")
    write_folder(root / "train", 32, seed=1)
    write_folder(root / "test", 15, seed=2)
    (root / "config.py").write_text(
        "from trainers.pretraining.config import *\nfrom trainers.config import Data, Optimizer\n\n"
        "def get_config():\n"
        f"    data = Data(train=({str(root / 'train')!r},), test=({str(root / 'test')!r},), format='image_folder',\n"
        "                dev_fraction=0.0)\n"
        "    return BackboneConfig(name='tiny', objective=SupervisedImages(shift=1), data=data, tokenizer=None,\n"
        "        network=NewVit(size=8, patch=4, channels=3, blocks=1, width=16, heads=2, mlp_width=32),\n"
        "        optimizer=Optimizer(learning_rate=1e-2, warmup_fraction=0.1),\n"
        f"        steps={STEPS}, batch_size=16, evaluate_every=80)\n"
    )
    return root


def test_a_run_learns_and_reports(whole):
    result = result_of(whole)
    assert result["finished"]
    assert (result["steps"], result["train_rows"]) == (STEPS, 96)
    assert result["held_out_accuracy"] > 0.9, "colours betray the class"
    assert (result["unigram_entropy"], result["gain"], result["train_tokens"]) == (None, None, None)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "held_out/accuracy" in line]
    assert [line["step"] for line in scored] == EVALUATED
    assert scored[-1]["held_out/accuracy"] == pytest.approx(result["held_out_accuracy"])
    assert scored[-1]["held_out/loss"] == pytest.approx(result["held_out_loss"])
    record = read_record(whole / "backbone")
    assert (record.weights_id, record.source["family"]) == (result["weights_id"], "vit")


def test_a_graft_is_trained_on_the_result_with_a_choice_of_labels(whole, place, capsys):
    values = settings(
        f"backbone={whole / 'backbone'}", f"data.train={place / 'train'}", f"data.test={place / 'test'}",
        "data.keep_labels=red,blue", "adapter.method=probe", "plan.stages=all", "batch_size=16",
    )  # fmt: skip
    status, out, err = call("train", "image_classification", "--workdir", "graft", *values, "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["accuracy"] > 0.9
    answer = topgraft.load("graft/graft").predict([str(place / "test" / "red" / "1.png")])[0]
    assert set(answer.probabilities) == {"red", "blue"}


def test_killed_and_resumed_is_bit_identical(whole, place, tmp_path, capsys):
    killed_and_resumed(place, tmp_path / "run", whole, capsys)


def test_resuming_on_other_images_is_refused_by_name(place, tmp_path, capsys):
    folder = shutil.copytree(place / "train", tmp_path / "train")
    arguments = ["train-backbone", place / "config.py", "--workdir", tmp_path / "run"]
    arguments += settings(f"data.train={folder}", "max_seconds=0.001")
    assert call(*arguments, capsys=capsys)[0] == 0
    (folder / "red" / "0.png").write_bytes((place / "test" / "red" / "0.png").read_bytes())
    status, _, err = call(*arguments, "--resume", capsys=capsys)
    assert (status, "the run's data has changed" in err) == (2, True), err


def test_going_on_keeps_the_head_of_the_same_labels_only(whole, place, capsys):
    """The first step of a warm-up has a rate of zero, so what is scored after it is what the run began with."""
    at_once = settings(f"start={whole}", "network=none", "start_head=kept", "max_seconds=0.0001")
    arguments = ("train-backbone", place / "config.py", "--json", *at_once, "--workdir")
    status, out, err = call(*arguments, "kept", capsys=capsys)
    assert status == 0, err
    found, before = as_json(out), result_of(whole)
    assert found["steps"] == 1
    assert found["weights_id"] == before["weights_id"]
    assert found["held_out_loss"] == before["held_out_loss"]
    status, _, err = call(*arguments, "other", "--set", "data.keep_labels=red,blue", capsys=capsys)
    assert status == 2
    assert "the outputs of the head are blue, green, red, the data's labels are blue, red; set start_head=fresh" in err


def test_going_on_in_bfloat16_changes_every_weight(whole, place, capsys):
    """Also rematerialisation; held out are the development rows."""
    values = settings(
        f"start={whole / 'backbone'}", "network=none", "steps=2", "remat=true", "compute_dtype=bfloat16",
        "data.test=", "data.dev_fraction=0.3", "optimizer.warmup_fraction=0",
    )  # fmt: skip
    status, out, err = call("train-backbone", place / "config.py", "--workdir", "on", "--json", *values, capsys=capsys)
    assert status == 0, err
    assert 0 < as_json(out)["train_rows"] < 96
    after, before = (flatten(load_backbone(path).params) for path in ("on/backbone", whole / "backbone"))
    assert not [path for path, leaf in after.items() if np.array_equal(leaf, before[path])]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("network.size=10",), "network.patch: an image of 10 pixels cannot be cut into patches of 4"),
        (("network.channels=2",), "network.channels: 2 is not supported; 1 (grey) or 3 (colour) are"),
        (("network.heads=3",), "network.heads: 3 does not divide width 16"),
        (("network=bert",), "network: objective=supervised_images needs network.kind=vit, got bert"),
        (("tokenizer=wordpiece",), "tokenizer: objective=supervised_images reads images; set tokenizer=none"),
        (("objective=masked_tokens",), "network: objective=masked_tokens needs network.kind=bert, got vit"),
        (("objective.shift=-1",), "objective.shift: may not be negative"),
        (("network=none",), "network: none needs start"),
        (("start=TEXT", "network=none"), "reads text, and supervised_images needs a backbone that reads images"),
        (("corpus.files=a.txt",), "corpus.files: objective=supervised_images reads labelled images"),
        (("data.train=",), "data.train: names no file; expected labelled images"),
        (("data.format=csv",), "data.format: csv holds text; objective=supervised_images needs idx"),
        (("data.train=nowhere",), "data.train: nowhere: no such folder"),
        (("data.train=one",), "the train rows hold one class only ('red')"),
        (("data.train=loose",), "is in no class"),
        (("data.train=loose.parquet", "data.test=", "data.format=auto", "data.image=img"), "has no column 'label'"),
        (("data.test=",), "data.test: names no file, and data.dev_fraction leaves no row to score"),
        (
            ("data.keep_labels=red,pink",),
            "no row of data.train has the label 'pink'; known: blue, green, red",
        ),
        (("batch_size=97",), "96 images to train on, fewer than one batch of 97"),
    ],
)
def test_bad_settings_exit_with_two_and_name_the_culprit(values, message, place, tiny_path, capsys):
    import pyarrow
    from pyarrow import parquet

    picture = place / "train" / "red" / "0.png"
    shutil.copytree(place / "train" / "red", "one/red")
    Path("loose").mkdir()
    shutil.copy(picture, "loose/0.png")
    parquet.write_table(pyarrow.table({"img": [picture.read_bytes()]}), "loose.parquet")
    values = settings(*(value.replace("TEXT", str(tiny_path)) for value in values))
    status, _, err = call("train-backbone", place / "config.py", "--workdir", "run", *values, capsys=capsys)
    assert (status, message in err) == (2, True), err


def test_images_are_moved_as_pixels_are():
    image = ImageSpec(size=8, patch=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (25, 8, 8, 3), np.uint8)
    offsets = np.array([(down, right) for down in range(-2, 3) for right in range(-2, 3)])
    rows = np.stack([patches(one, image) for one in pixels])
    found = np.asarray(jax.jit(lambda r, o: moved(r, o, 2, image))(rows, offsets))
    for row, one, (down, right) in zip(found, pixels, offsets, strict=True):
        places = [np.clip(np.arange(8) - offset, 0, 7) for offset in (down, right)]
        np.testing.assert_array_equal(row, patches(one[np.ix_(*places)], image))


OBJECTIVE = SupervisedImages(shift=1)


@pytest.fixture(scope="module")
def task() -> BackboneTask:
    """24 random pictures of three labels."""
    draw = np.random.default_rng(0)
    rows = draw.integers(0, 256, (24, IMAGE.tokens, IMAGE.patch_width), np.uint8)
    arrays = {"ids": rows, "labels": draw.integers(0, 3, 24).astype(np.int32)}
    material = Material(
        network=Network(SPEC),
        preprocessing=ImagePreprocessing(IMAGE, resize=IMAGE.size),
        family="vit",
        fingerprint={},
        splits={"train": arrays, "held_out": arrays},
        labels=("a", "b", "c"),
    )
    data = Data(train=("x",), format="image_folder")
    config = BackboneConfig(
        objective=OBJECTIVE, data=data, network=NewVit(), tokenizer=None, batch_size=8, steps=4
    )  # fmt: skip
    return BackboneTask(config, material)


def test_scores_are_means_over_the_rows_that_count(task):
    params, material = first_params(task), task.material
    params["head"]["classifier"]["bias"] = jnp.array([0.3, -0.2, 0.1])
    batch = material.batch("held_out", np.arange(5), 8)
    means, rows = jax.jit(functools.partial(OBJECTIVE.score, material))(params, batch, jax.random.key(1))
    logits = np.asarray(OBJECTIVE.logits(material, params, batch["ids"], "float32"))[:5].astype(np.float64)
    wanted = batch["labels"][:5]
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), wanted]
    assert rows == 5
    assert float(means["loss"]) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(means["accuracy"]) == pytest.approx((logits.argmax(-1) == wanted).mean())
    loss = jax.jit(functools.partial(OBJECTIVE.loss, material))
    same, other = (loss(params, batch, jax.random.key(k))[0] for k in (1, 2))
    assert same == loss(params, batch, jax.random.key(1))[0] != other, "the key decides how images are moved"


def test_rows_are_chosen_by_label_in_text_too(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,0\nb,1\nc,2\nd,0\n")
    file = (str(tmp_path / "rows.csv"),)
    data = Data(train=file, test=file, label_names=("x", "y", "z"), keep_labels=("x", "z"))
    assert [row.text for row in read_rows(data, "train", OneLabel())] == ["a", "c", "d"]
    with pytest.raises(InputError, match=r"data\.keep_labels: chooses rows by their one label"):
        list(read_rows(data, "train", SeveralLabels()))
    few = Data(test=file, keep_labels=("0", "7"))
    assert len(list(read_rows(few, "test", OneLabel()))) == 2, "a test file may lack a label"
    none = Data(test=file, keep_labels=("7", "8"))
    with pytest.raises(InputError, match=r"no row of data\.test has the label '7'"):
        list(read_rows(none, "test", OneLabel()))
