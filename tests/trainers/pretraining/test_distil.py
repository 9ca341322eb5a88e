"""Distillation through the real command: students of a teacher's blocks, of another width, of images; refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backbone.errors import InputError
from backbone.storage import load_backbone, save_backbone
from backbone.trees import flatten
from tests import reference
from tests.tiny import SPEC, as_json, make_tiny_backbone, preprocessing_of, random_params, tokenizer_json
from tests.tiny_images import make_image_backbone, write_folder
from tests.trainers.pretraining.backbone_runs import call, paragraphs, settings
from trainers.pretraining.config import Distil
from trainers.pretraining.objectives.distil import padded, unexplained
from trainers.pretraining.teacher import mapped, states_of, student_of

DEEP = replace(SPEC, blocks=4)
OTHER = tokenizer_json().replace('"ban"', '"bxx"')  # a tokenizer with another word
SCRIPT = """
from trainers.pretraining.config import *

def get_config():
    return BackboneConfig(objective=Distil(teacher="teacher", blocks=2), network=None, tokenizer=None, steps=40,
        corpus=Corpus(files=("corpus.txt",), tokens=16, held_out_fraction=0.1), batch_size=8, evaluate_every=40,
        optimizer=Optimizer(learning_rate=2e-3, warmup_fraction=0.1))
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """The working folder, with a teacher, a corpus and a config script in it."""
    make_tiny_backbone(tmp_path / "teacher", spec=DEEP, params=random_params(DEEP, scale=2.0))
    (tmp_path / "corpus.txt").write_text("\n\n".join(paragraphs(150)))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / "config.py").write_text(SCRIPT)
    return tmp_path


def given(field: str, value: str) -> None:
    """Gives a field of the config script, which holds None, a value. With a network, no student is cut."""
    script = Path("config.py").read_text()
    assert f"{field}=None" in script
    script = script.replace(f"{field}=None", f"{field}={value}")
    if field == "network":
        script = script.replace(", blocks=1)", ")").replace(", blocks=2)", ")")
    Path("config.py").write_text(script)


def distil(*values: str, capsys, workdir: str = "run") -> tuple[int, dict, str]:
    words = ("train-backbone", "config.py", *settings(*values), "--workdir", workdir, "--quiet", "--json")
    status, out, err = call(*words, capsys=capsys)
    return status, as_json(out) if out else {}, err


def test_a_student_of_every_second_block_learns_its_teacher_and_is_an_ordinary_backbone(place, capsys):
    status, result, err = distil(capsys=capsys)
    assert status == 0, err
    _, start, _ = distil("steps=1", "optimizer.learning_rate=1e-9", capsys=capsys, workdir="start")
    assert result["held_out_loss"] < 0.8 * start["held_out_loss"], "it imitates better than the blocks it was made of"
    teacher, begun, student = (load_backbone(folder) for folder in ("teacher", "start/backbone", "run/backbone"))
    assert student.spec == replace(DEEP, blocks=2)
    assert student.preprocessing_id == teacher.preprocessing_id
    assert student.source["family"] == "bert"
    for block, of in (("0", "0"), ("1", "2")):
        for path, leaf in flatten(begun.params["blocks"][block]).items():
            np.testing.assert_allclose(leaf, flatten(teacher.params["blocks"][of])[path], atol=1e-6)
    assert len(list(Path("run/teacher").iterdir())) == 2, "one file for the train rows, one for those held out"
    _, again, _ = distil("max_seconds=100", capsys=capsys, workdir="again")
    assert again["weights_id"] == result["weights_id"], "the same rows and seed give the same student"


def test_states_are_the_teachers_and_are_computed_once(place):
    teacher = load_backbone("teacher")
    rows = [np.array([2, 9, 11, 3]), np.array([2, 7, 3])]
    arrays = padded(rows, 6)
    states = states_of(teacher, arrays["ids"], arrays["lengths"], (2, 4), place / "kept")
    assert (states.shape, states.dtype) == ((2, 2, 6, 32), np.float16)
    for number, row in enumerate(rows):
        expected = reference.states(jax.tree.map(np.asarray, teacher.params), row, DEEP)
        for place_of, boundary in enumerate((2, 4)):
            np.testing.assert_allclose(states[number, place_of, : len(row)], expected[boundary], atol=5e-3)
    (file,) = (place / "kept").iterdir()
    stamp = file.stat().st_mtime_ns
    states_of(teacher, arrays["ids"], arrays["lengths"], (2, 4), place / "kept")
    assert file.stat().st_mtime_ns == stamp
    states_of(teacher, arrays["ids"], arrays["lengths"], (4,), place / "kept")
    assert len(list((place / "kept").iterdir())) == 2


def test_the_loss_is_the_share_of_the_variance_that_is_missed():
    draw = np.random.default_rng(0)
    wanted, weights = draw.normal(size=(4, 5, 3)), (draw.random((4, 5)) < 0.7).astype(float)
    mean = (wanted * weights[..., None]).sum(axis=(0, 1)) / weights.sum()
    assert float(unexplained(jnp.asarray(wanted), jnp.asarray(wanted), jnp.asarray(weights))) == 0
    at_mean = unexplained(jnp.broadcast_to(mean, wanted.shape), jnp.asarray(wanted), jnp.asarray(weights))
    assert float(at_mean) == pytest.approx(1, rel=1e-5)
    nothing = unexplained(jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.ones(1))
    assert float(nothing) == 0, "a batch without variance divides by no zero"


def test_a_student_of_another_width_has_a_projection_that_is_thrown_away(place, capsys):
    given("network", "NewBert(blocks=2, width=16, heads=2, mlp_width=32, groups=1)")
    status, result, err = distil("steps=3", capsys=capsys)
    assert status == 0, err
    student = load_backbone("run/backbone")
    assert (student.spec.width, student.spec.groups) == (16, 1)
    assert result["parameters"] == sum(leaf.size for leaf in flatten(student.params).values())


def test_a_student_of_images_shares_its_weights_or_is_cut_from_its_teacher(tmp_path, capsys):
    make_image_backbone(tmp_path / "teacher")
    write_folder(tmp_path / "train", 16, seed=1)
    write_folder(tmp_path / "test", 4, seed=2)
    (tmp_path / "config.py").write_text(
        "from trainers.pretraining.config import *\n\ndef get_config():\n"
        "    data = Data(train=('train',), test=('test',), format='image_folder', dev_fraction=0.0)\n"
        "    return BackboneConfig(objective=DistilImages(teacher='teacher', blocks=1), network=None, tokenizer=None,\n"
        "        data=data, steps=4, batch_size=8)\n"
    )
    status, _, err = distil(capsys=capsys)
    assert status == 0, err
    assert load_backbone("run/backbone").spec.blocks == 1
    given("network", "NewVit(size=8, patch=4, channels=3, blocks=2, width=32, heads=2, groups=1)")
    status, _, err = distil(capsys=capsys, workdir="shared")
    assert (status, "cuts images into other patches than the student" in err) == (2, True), "other means and deviations"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("objective.blocks=3",), "objective.blocks: 3 must be smaller than the teacher's 4 blocks, and divide them"),
        (("objective.blocks=4",), "objective.blocks: 4 must be smaller"),
        (("objective.teacher=",), "objective.teacher: names no backbone"),
        (("objective.teacher=nowhere",), "nowhere"),
        (("objective.boundaries=1",), "without 2, the last, upper blocks learn nothing"),
        (("objective.boundaries=2,3",), "objective.boundaries: 3 is none of the student's, 0 to 2"),
        (("objective.blocks=0",), "network: none needs start"),
        (("corpus.tokens=100",), "corpus.tokens: 100 exceeds 64, the longest the teacher takes"),
        (("objective.blocks=0", "start=other"), "start: the tokenizer of other is another one than the teacher's"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_any_step(place, values, message, capsys):
    if "start=other" in values:
        preprocessing = type(preprocessing_of()).from_file_text(OTHER, 64, "other")
        save_backbone(place / "other", SPEC, random_params(SPEC), preprocessing, {"source": "tests", "family": "bert"})
    status, _, err = distil(*values, capsys=capsys)
    assert (status, message in err) == (2, True), err
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize(
    ("field", "value", "values", "message"),
    [
        (
            "network",
            "NewBert()",
            ("objective.blocks=2",),
            "objective.blocks: makes the student of the teacher's blocks",
        ),
        ("tokenizer", "WordPiece()", (), "tokenizer: objective=distil takes that of its teacher; set tokenizer=none"),
        ("tokenizer", "TokenizerFile('other.json')", (), "tokenizer: it is another one than the teacher's"),
        ("network", "NewBert(blocks=3)", (), "boundary 1 of 3 blocks falls between two"),
    ],
)
def test_a_student_or_tokenizer_that_does_not_fit_is_refused(place, field, value, values, message, capsys):
    Path("other.json").write_text(OTHER)
    given(field, value)
    status, _, err = distil(*values, capsys=capsys)
    assert (status, message in err) == (2, True), err


def test_shared_weights_of_a_teacher_stay_shared_in_one_group_alone(tmp_path):
    for groups, expected in ((1, 1), (2, 0)):
        spec = replace(DEEP, groups=groups)
        make_tiny_backbone(tmp_path / str(groups), spec=spec)
        teacher = load_backbone(tmp_path / str(groups))
        network, params = student_of(teacher, 2)
        assert network.spec.groups == expected
        assert sorted(params["blocks"]) == ["0", "1"][: 2 - expected]
    assert mapped((1, 2), 2, 4) == (2, 4)
    with pytest.raises(InputError, match="blocks: may not be negative"):
        Distil(teacher="x", blocks=-1)
