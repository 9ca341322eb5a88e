"""`topgraft route`: a router over stored grafts, its promise, its artefact, and the answers behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

import topgraft
from adapters.artefact.router import RECORD, TENSORS, read_router
from adapters.graft import load_graft
from adapters.specs import Classification, Lora, Probe
from backbone.errors import InputError
from metering.window import window
from tests.command import call
from tests.routes import TASKS, stored, texts_of
from tests.tiny import as_json, make_tiny_backbone, write_csv
from trainers.config.routing import Routing
from trainers.route import promised, route


@pytest.fixture(scope="module")
def grafts(tiny, tmp_path_factory) -> list[Path]:
    """Grafts of three tasks, each with LoRA in the blocks from 1 on, and the last one a probe."""
    folder = tmp_path_factory.mktemp("grafts")
    methods = (Lora(rank=2, blocks="1:"), Lora(rank=2, blocks="2:"), Probe(boundaries=(0, 3)))
    return [stored(folder, tiny, name, i, method=m) for i, (name, m) in enumerate(zip(TASKS, methods, strict=True))]


@pytest.fixture(scope="module")
def router(grafts, tmp_path_factory) -> Path:
    """A router over them that knows rows of no task."""
    folder = tmp_path_factory.mktemp("router")
    other = write_csv(folder / "other.csv", [(text, "none") for text in texts_of(3, 120)])
    route(grafts, folder / "router", Routing(rows=(str(other),), max_wrong=0.1))
    return folder / "router"


def test_a_router_names_the_graft_of_each_text_or_none(grafts, tmp_path, capsys):
    out = tmp_path / "router"
    status, stdout, _ = call("route", *grafts, "--out", out, "--max-wrong", 0.1, "--json", "--quiet", capsys=capsys)
    report = as_json(stdout)
    assert status == 0
    assert report["boundaries"] == [0, 1]
    assert report["extra_blocks"] == 0
    assert [task["name"] for task in report["tasks"]] == list(TASKS)
    promise = report["promise"]
    assert promise["accuracy"] > 0.9
    assert promise["wrong"] / promise["rows"] <= 0.1
    assert sum(task["rows"] for task in report["tasks"]) + promise["rows"] == 3 * 120
    loaded = topgraft.load_router(out)
    new = [loaded.choices(texts_of(number, 40, seed=1)) for number in range(3)]
    right = np.mean([choice.task == TASKS[number] for number, choices in enumerate(new) for choice in choices])
    assert right > 0.85


def test_rows_of_no_graft_are_answered_by_none(router):
    loaded = topgraft.load_router(router)
    choices = loaded.choices(texts_of(3, 60, seed=1))
    assert np.mean([choice.task is None for choice in choices]) > 0.85
    answers = loaded.predict(texts_of(3, 60, seed=1))
    assert [answer.task for answer in answers] == [choice.task for choice in choices]
    assert all((answer.prediction is None) == (answer.task is None) for answer in answers)


def test_an_answer_is_that_of_the_graft_alone(router, grafts, tiny):
    """From the shared states, and from a whole pass of the graft."""
    loaded = topgraft.load_router(router, backbone=tiny)
    texts = [text for number in range(3) for text in texts_of(number, 11, seed=2)]
    answers = loaded.predict(texts)
    assert {answer.task for answer in answers} >= set(TASKS)
    for name, path in zip(TASKS, grafts, strict=True):
        mine = [i for i, answer in enumerate(answers) if answer.task == name]
        alone = load_graft(path, tiny).predict([texts[i] for i in mine])
        for i, expected in zip(mine, alone, strict=True):
            given = answers[i].prediction
            assert given.labels == expected.labels
            assert given.probabilities == pytest.approx(expected.probabilities, rel=1e-5)


def test_a_choice_is_a_softmax_of_means_over_tokens(router, tiny):
    read, texts = read_router(router), texts_of(0, 6)
    for text, choice in zip(texts, topgraft.load_router(router, backbone=tiny).choices(texts), strict=True):
        ids = tiny.preprocessing.encode([text], 48)[0][None]
        hidden = tiny.network.embed(tiny.params, {"ids": ids})
        mask = np.ones(ids.shape, bool)
        means = [np.asarray(hidden).mean(axis=1)]
        means.append(np.asarray(tiny.network.run_blocks(tiny.params, hidden, mask, start=0, stop=1)).mean(axis=1))
        outputs = softmax(np.concatenate(means, axis=1) @ read.kernel + read.bias)[0]
        expected = np.array([outputs[read.owners == number].sum() for number in range(4)])
        assert choice.probability == pytest.approx(expected[:3].max(), rel=1e-4)
        best = int(expected.argmax())
        sure = best < 3 and expected[best] >= read.record.promise.threshold
        assert choice.task == (TASKS[best] if sure else None)


def test_the_trunk_below_runs_once(router, grafts, tiny):
    """Routed answers cost what the graft alone costs, since the router reads what the graft computes anyhow."""
    loaded, texts = topgraft.load_router(router, backbone=tiny), texts_of(1, 8, seed=3)
    texts = [text for text, choice in zip(texts, loaded.choices(texts), strict=True) if choice.task == "rye"][:4]
    graft = load_graft(grafts[1], tiny)
    with window("routed") as routed:
        loaded.predict(texts)
    with window("alone") as alone:
        graft.predict(texts)
    assert routed.record().flops == pytest.approx(alone.record().flops)


def test_the_same_grafts_and_rows_give_the_same_router(grafts, tmp_path):
    first, second = (route(grafts, tmp_path / name, Routing(max_wrong=0.1)) for name in ("a", "b"))
    assert first.content_id == second.content_id
    other = route(grafts, tmp_path / "c", Routing(max_wrong=0.1, boundaries=(2,)))
    assert other.content_id != first.content_id
    assert other.extra_blocks == 1


def test_a_graft_that_moved_is_named_by_its_task(router, grafts, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(grafts[0])
    assert topgraft.load_router(router, {"corn": moved}).grafts["corn"].manifest.name == "corn"
    with pytest.raises(InputError, match=r"'wheat' is no task of this router; nearest: oats"):
        topgraft.load_router(router, {"wheat": moved})
    with pytest.raises(InputError, match=r"graft of 'rye' is not at .*gone; name its folder: load_router"):
        topgraft.load_router(router, {"rye": tmp_path / "gone"})


def test_a_promise_that_no_row_supports_is_status_11(tiny, tmp_path, capsys, caplog):
    """Two tasks with the same rows: nobody can tell them apart."""
    twins = [stored(tmp_path, tiny, name, 0, seed=seed) for seed, name in enumerate(("one", "two"))]
    words = ("route", *twins, "--out", tmp_path / "router", "--max-wrong", 0.05, "--json")
    status, stdout, _ = call(*words, capsys=capsys)
    report = as_json(stdout)
    assert status == 11
    assert report["path"] == ""
    assert report["promise"]["accuracy"] < 0.7
    assert "nothing is certified" in caplog.text
    assert not (tmp_path / "router").exists()
    made = route(twins, tmp_path / "router", Routing(max_wrong=0.0))
    assert made.promise.answered == 1.0
    assert made.promise.threshold == 0.0


def test_the_threshold_is_that_of_the_control(router):
    """One output a row: the threshold follows from the probabilities and the p-values alone."""
    read = read_router(router)
    draw = np.random.default_rng(0)
    pooled = draw.normal(size=(400, len(read.kernel))).astype(np.float32)
    probabilities = read.probabilities(pooled)
    labels = np.where(draw.random(400) < 0.9, probabilities.argmax(axis=1), 0)
    promise = promised(read, pooled, labels, Routing(max_wrong=0.2))
    assert promise is not None
    sure = probabilities[:, :3].max(axis=1) >= promise.threshold
    answered = sure & (probabilities.argmax(axis=1) < 3)
    assert promise.answered == pytest.approx(answered.mean())
    assert promise.wrong == (answered & (probabilities.argmax(axis=1) != labels)).sum()
    assert promised(read, pooled, (labels + 1) % 3, Routing(max_wrong=0.01)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boundaries": (4,)}, r"--boundaries: 4 is not in 0\.\.3"),
        ({"boundaries": (2, 1)}, r"--boundaries: must ascend"),
        ({"share": 1.0}, r"--share: must lie between 0 and 1"),
        ({"max_wrong": 1.0}, r"--max-wrong: must lie below 1"),
        ({"max_wrong": 0.001}, r"--max-wrong: \d+ certifying rows cannot show .*; it takes 2302"),
        ({"share": 0.999}, r"no row is left to fit"),
    ],
)
def test_bad_settings_are_named(grafts, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        route(grafts, tmp_path / "router", Routing(**settings))


def test_bad_grafts_and_rows_are_named(grafts, tiny, tmp_path, capsys):
    def refused(message, *paths, **settings):
        with pytest.raises(InputError, match=message):
            route(paths, tmp_path / "router", Routing(**settings), overrides=settings.pop("overrides", ()))

    refused(r"two grafts or more", grafts[0])
    refused(r"'corn': two grafts have one name", grafts[0], grafts[0])
    refused(r"the name 'none' means that no graft", grafts[0], stored(tmp_path, tiny, "none", 1))
    paired = stored(tmp_path, tiny, "pairs", 1, head=replace(Classification(), pair="cross"))
    refused(r"reads pairs of texts", grafts[0], paired)
    wrong = write_csv(tmp_path / "wrong.csv", [("ban den", "korn"), ("den", "rye")])
    refused(r"wrong\.csv.*'korn' names no graft of the router; nearest: corn", *grafts, rows=(str(wrong),))
    other = make_tiny_backbone(tmp_path / "other", seed=2)
    from backbone.storage import load_backbone

    foreign = stored(tmp_path, load_backbone(other), "foreign", 1)
    status, _, err = call("route", grafts[0], foreign, "--out", tmp_path / "router", capsys=capsys)
    assert status == 2
    assert "a router picks among grafts of one trunk" in err
    status, _, err = call("route", *grafts, "--out", tmp_path / "router", "--set", "data.text=body", capsys=capsys)
    assert status == 2
    assert "there is no --rows" in err
    assert not (tmp_path / "router").exists()


def test_an_altered_router_is_refused(router, tmp_path, tiny, grafts):
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in router.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    record = copy("record")
    values = json.loads((record / RECORD).read_text())
    values["promise"]["threshold"] = 0.0
    (record / RECORD).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"does not match its own hash"):
        read_router(record)
    tensors = copy("tensors")
    content = bytearray((tensors / TENSORS).read_bytes())
    content[-1] ^= 1
    (tensors / TENSORS).write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"sha256 differs"):
        read_router(tensors)
    with pytest.raises(InputError, match=r"not a router"):
        read_router(grafts[0])
