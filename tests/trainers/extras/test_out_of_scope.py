"""The out-of-scope score: by hand and against scikit-learn, from the real main to a prediction, and damaged."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file, save
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

import topgraft
from adapters.artefact.manifest import SCOPE, read_manifest
from adapters.artefact.read import read_graft
from adapters.artefact.scope import BACKGROUND, Scope, min_rows, quantile, scope_of, shrunk_covariance
from adapters.artefact.write import save_graft
from backbone.errors import InputError
from registry.store import Store
from tests.command import call
from tests.tiny import WORDS, as_json, rows, write_config, write_csv
from trainers.config import OutOfScope, TrainConfig
from trainers.config.load import load_config
from trainers.data.splits import membership
from trainers.plan import plan, table
from trainers.train import train

RATE = 0.1
HELD = [text for text, _ in rows(200, seed=11)]


def strange(count: int) -> list[str]:
    """Texts of random words that no train row holds."""
    draw, unknown = random.Random(5), [word for word in WORDS if word not in WORDS[::6]]
    return [" ".join(draw.choice(unknown) for _ in range(5)) for _ in range(count)]


@pytest.fixture(scope="module")
def runs(tiny_path, tmp_path_factory) -> dict[str, dict]:
    """A graft of LoRA in the top block that abstains, and the same without a score."""
    folder = tmp_path_factory.mktemp("scope")
    script = write_config(
        folder / "config.py",
        tiny_path,
        folder,
        adapter="Lora(rank=2)",
        epochs="1",
        plan="Plan(stages='top(1)')",
    )
    write_csv(folder / "train.csv", rows(480, seed=1))
    config = load_config(str(script), ("data.dev_fraction=0.25", f"out_of_scope.false_alarms={RATE}"))
    result = train(replace(config, out_of_scope=replace(config.out_of_scope, abstain=True)), folder / "scored")
    graft = topgraft.load(result.graft)
    plain = {"name": "tiny", "max_tokens": 48, "training": graft.manifest.training}
    save_graft(folder / "bare", graft.model, graft.params, graft.backbone, **plain)
    runs = {"scored": result.graft, "bare": str(folder / "bare")}
    return {name: {"graft": path, "costs": result.costs, "script": script} for name, path in runs.items()}


def test_the_covariance_is_that_of_ledoit_and_wolf():
    deviations = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    np.testing.assert_allclose(shrunk_covariance(deviations), ledoit_wolf(deviations, assume_centered=True)[0])
    with pytest.raises(InputError, match="do not differ"):
        shrunk_covariance(np.zeros((5, 3)))


def test_differences_are_mahalanobis_to_the_nearest_class_less_most_of_that_to_all_rows():
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 90)
    x = (3 * draw.normal(size=(3, 4))[labels] + draw.normal(size=(90, 4))).astype(np.float32)
    scope = scope_of(x, np.eye(4)[labels], x[:50], 2, RATE, abstain=False)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = [u[labels == c].mean(axis=0) for c in range(3)]
    inverse = np.linalg.inv(ledoit_wolf(u - np.array(means)[labels], assume_centered=True)[0])
    every = np.linalg.inv(ledoit_wolf(u)[0])
    nearest = np.array([min(mahalanobis(row, mean, inverse) for mean in means) for row in u])
    wanted = nearest**2 - BACKGROUND * np.array([mahalanobis(row, u.mean(axis=0), every) for row in u]) ** 2
    assert scope.means.shape == (3, 4), "a class without rows is left out"
    np.testing.assert_allclose(scope.differences(x), wanted, rtol=1e-4)
    np.testing.assert_allclose(scope.differences(5 * x), scope.differences(x), rtol=1e-5, err_msg="length counts not")
    threshold = sorted(wanted[:50])[45]
    assert scope.threshold == pytest.approx(threshold, rel=1e-4), "the 46th: ceil(51 * 0.9)"
    np.testing.assert_allclose(scope.scores(x), 1 + (wanted - threshold) / wanted[:50].std(), rtol=1e-4)
    with pytest.raises(InputError, match="do not differ"):
        scope_of(x, np.eye(4)[labels], np.tile(x[:1], (50, 1)), 2, RATE, abstain=False)


def test_the_threshold_keeps_its_promise_on_average():
    """Over many draws, a new row lies above the threshold in at most the stated share, and not in far fewer."""
    draw = np.random.default_rng(2)
    beyond = [draw.random() > quantile(draw.random(29), RATE) for _ in range(4000)]
    assert 0.07 < np.mean(beyond) <= RATE + 3 * (RATE * (1 - RATE) / 4000) ** 0.5
    assert (min_rows(0.05), min_rows(0.1), min_rows(0.3), min_rows(0.9)) == (19, 9, 3, 1)
    assert quantile(np.arange(19.0), 0.05) == 18


def test_rows_in_scope_are_kept_and_random_words_flagged(runs):
    graft = topgraft.load(runs["scored"]["graft"])
    assert graft.scope is not None
    answers = graft.predict(HELD)
    scores = np.array([answer.out_of_scope for answer in answers])
    flagged = int((scores > 1).sum())
    # of n development rows the k-th sets the threshold: the true rate is Beta(n+1-k, k), and flags are binomial
    rows_of_dev = sum(membership(text, 0.25, 0.0) == "dev" for text, _ in rows(480, seed=1))
    place = math.ceil((rows_of_dev + 1) * (1 - RATE))
    least, most = scipy.stats.betabinom(len(HELD), rows_of_dev + 1 - place, place).ppf([1e-4, 1 - 1e-4])
    assert least <= flagged <= most
    odd = np.array([answer.out_of_scope for answer in graft.predict(strange(100))])
    assert (odd > 1).mean() > 2 * flagged / len(HELD)
    ranks = scipy.stats.rankdata(np.concatenate([scores, odd]))[len(HELD) :]
    assert (ranks.sum() - 100 * 101 / 2) / (100 * len(HELD)) > 0.75, "area under the curve"

    logits = graft.logits(HELD)
    for answer, row in zip(answers, logits, strict=True):
        assert answer.labels == (() if answer.out_of_scope > 1 else (graft.model.labels[row.argmax()],))
        assert len(answer.probabilities) == 3
    np.testing.assert_array_equal(graft.answers_of_rows(graft.encode(HELD))[0], logits)
    with pytest.raises(ValueError, match="0 labels"):
        _ = next(answer for answer in answers if answer.out_of_scope > 1).label


def test_the_adapter_has_no_part_in_the_score(runs):
    """The features are those of the bare backbone: another head and adapter give the same scores."""
    graft, bare = topgraft.load(runs["scored"]["graft"]), topgraft.load(runs["bare"]["graft"])
    assert graft.manifest.content_id != bare.manifest.content_id, "the score is part of what a graft is"
    assert bare.scope is None
    assert {a.out_of_scope for a in bare.predict(HELD[:3])} == {None}
    assert sorted(p.name for p in Path(runs["bare"]["graft"]).iterdir()) == [
        "canary.safetensors", "graft.safetensors", "manifest.json",
    ]  # fmt: skip
    hidden = graft.backbone.network
    rows_ = graft.encode(HELD[:4])
    for row, answer in zip(rows_, graft.predict(HELD[:4]), strict=True):
        params = graft.backbone.params
        states = hidden.run_blocks(params, hidden.embed(params, {"ids": row[None]}), np.ones((1, len(row)), bool))
        features = np.asarray(hidden.finish(params, states)).mean(axis=1)
        assert answer.out_of_scope == pytest.approx(graft.scope.scores(features)[0], rel=1e-3)
    assert "out_of_scope" in runs["scored"]["costs"]


def test_it_brings_what_the_development_rows_were_like(runs):
    graft = topgraft.load(runs["scored"]["graft"])
    held = [text for text, _ in rows(480, seed=1) if membership(text, 0.25, 0.0) == "dev"]
    reference, answers = graft.scope.reference, graft.predict(held)
    likely = [next(iter(answer.probabilities)) for answer in answers]
    assert reference.label_counts.tolist() == [likely.count(label) for label in graft.model.labels]
    lengths = np.array([len(ids) for ids in graft.encode(held)])
    assert len(reference.length_counts) > 1
    for values, edges, counts in (
        (lengths, reference.length_edges, reference.length_counts),
        (np.array([a.out_of_scope for a in answers]), reference.score_edges, reference.score_counts),
    ):
        assert counts.sum() == len(held)
        # an edge is a score that was computed in another batch: one row may lie on either side of it
        assert np.abs(np.histogram(values, [-np.inf, *edges, np.inf])[0] - counts).max() <= 1


def test_inspect_prices_it(runs, capsys):
    status, out, err = call("inspect", runs["scored"]["graft"], "--json", capsys=capsys)
    assert status == 0, err
    lowest = topgraft.load(runs["scored"]["graft"]).model.adapted_blocks[0]
    told = {"boundary": 3, "false_alarms": RATE, "abstains": True, "extra_blocks": 3 - lowest}
    assert as_json(out)["facts"]["out_of_scope"] == told
    _, out, _ = call("inspect", runs["bare"]["graft"], "--json", capsys=capsys)
    assert "out_of_scope" not in as_json(out)["facts"]


def test_the_verbs_tell_it(runs, tmp_path, capsys):
    Path("texts.txt").write_text("\n".join(strange(40) + HELD[:5]))
    status, out, err = call("predict", runs["scored"]["graft"], "--file", "texts.txt", "--json", capsys=capsys)
    assert status == 0, err
    answers = as_json(out)["predictions"]
    assert all(set(a) == {"text", "labels", "probabilities", "out_of_scope"} for a in answers)
    assert all((a["labels"] == []) == (a["out_of_scope"] > 1) for a in answers)
    assert any(a["labels"] == [] for a in answers)
    status, out, _ = call("predict", runs["bare"]["graft"], "--text", HELD[0], "--json", capsys=capsys)
    assert set(as_json(out)["predictions"][0]) == {"text", "labels", "probabilities"}
    for setting, told in (
        ("out_of_scope.false_alarms=0.001", "needs at least 999 development rows"),
        ("out_of_scope.boundary=7", "out_of_scope.boundary: 7 is not in 0..3"),
    ):
        more = ("--set", "out_of_scope.false_alarms=0.1", "--set", setting)
        status, _, err = call("train", runs["bare"]["script"], "--workdir", setting, *more, capsys=capsys)
        assert (status, told in err) == (2, True), err


def test_several_labels_at_another_boundary(tiny_path, tmp_path):
    boundary = 2
    script = write_config(
        tmp_path / "config.py", tiny_path, tmp_path, head="MultiLabel()", adapter="Probe(boundaries=(1,))"
    )
    table = [(text, label if i % 3 else f"{label}|extra") for i, (text, label) in enumerate(rows(240, seed=3))]
    write_csv(tmp_path / "train.csv", [(text, "" if i % 11 == 0 else label) for i, (text, label) in enumerate(table)])
    settings = ("data.dev_fraction=0.2", f"out_of_scope.false_alarms={RATE}", f"out_of_scope.boundary={boundary}")
    graft = topgraft.load(train(load_config(str(script), (*settings, "data.test=")), tmp_path / "run").graft)
    assert (graft.scope.boundary, graft.scope.abstain, len(graft.scope.means)) == (boundary, False, 5)
    inside = np.array([a.out_of_scope for a in graft.predict(HELD)])
    outside = np.array([a.out_of_scope for a in graft.predict(strange(100))])
    assert np.median(outside) > np.median(inside)
    logits, _ = graft.answers_of_rows(graft.encode(HELD))
    np.testing.assert_array_equal(logits, graft.logits(HELD))


def test_a_damaged_score_is_refused(runs, tmp_path, tiny):
    folder = tmp_path / "g"
    shutil.copytree(runs["scored"]["graft"], folder)
    file = folder / SCOPE
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=SCOPE):
            topgraft.load(folder, tiny)
        with pytest.raises(InputError, match=SCOPE):
            read_graft(folder)
    file.unlink()
    with pytest.raises(InputError, match=f"{SCOPE}: missing"):
        topgraft.load(folder, tiny)
    file.write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][SCOPE]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    with pytest.raises(InputError, match="altered"):
        topgraft.load(folder, tiny)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"false_alarms": np.array([0.0])}, "out of their range"),
        ({"spread": np.array([0.0])}, "above 0"),
        ({"variances": np.zeros(32, np.float32)}, "above 0"),
        ({"threshold": np.array([np.nan])}, "not finite"),
        ({"means": np.full((3, 32), np.nan, np.float32)}, "not finite"),
        ({"means": np.zeros((3, 31), np.float32)}, "means"),
        ({"code": np.zeros(1)}, "code"),
        ({"reference.label_counts": np.zeros(3, np.int64)}, "counts must hold at least one row"),
        ({"reference.label_counts": np.ones(2, np.int64)}, "reference.label_counts"),
        ({"reference.score_edges": np.zeros(40)}, "reference.score_edges"),
        ({"reference.length_counts": np.ones(1, np.int32)}, "reference.length"),
        ({"reference.code": np.zeros(1)}, "reference.code"),
    ],
)
def test_a_score_that_was_written_wrongly_is_refused(runs, tmp_path, tiny, change, told):
    """Hashes that fit do not make it valid."""
    graft = topgraft.load(runs["scored"]["graft"], tiny)

    class Wrong(Scope):
        def tensors(self):
            return super().tensors() | change

    save_graft(
        tmp_path / "g",
        graft.model,
        graft.params,
        tiny,
        name="t",
        max_tokens=48,
        training=graft.manifest.training,
        scope=Wrong(**vars(graft.scope)),
    )
    with pytest.raises(InputError, match=told):
        topgraft.load(tmp_path / "g", tiny)


def test_the_store_keeps_it(runs, tmp_path):
    store = Store(tmp_path / "store")
    for name in ("scored", "bare"):
        content_id, _ = store.add(runs[name]["graft"])
        assert store.verify(content_id) == read_manifest(Path(runs[name]["graft"]))
        assert (store.path(content_id) / SCOPE).exists() == (name == "scored")
    content_id, _ = store.add(runs["scored"]["graft"])
    (store.path(content_id) / SCOPE).write_bytes(
        save(load_file(Path(runs["scored"]["graft"]) / SCOPE) | {"x": np.ones(1)})
    )
    with pytest.raises(InputError, match=SCOPE):
        store.verify(content_id)


def test_what_a_config_may_ask():
    from adapters.specs import Classification, Regression

    asked = OutOfScope(false_alarms=0.05)
    assert TrainConfig(out_of_scope=asked).out_of_scope == asked
    for wrong in (lambda: OutOfScope(abstain=True), lambda: OutOfScope(false_alarms=1.0)):
        with pytest.raises(InputError):
            wrong()
    for head, metric in ((Regression(), "pearson"), (Classification(pair="two_tower"), "accuracy")):
        data = TrainConfig().data if head.pair == "none" else type(TrainConfig().data)(text_pair="b")
        with pytest.raises(InputError, match="out_of_scope"):
            TrainConfig(head=head, metric=metric, data=data, out_of_scope=asked)


def test_a_score_that_is_off_is_no_reason_to_retrain(runs):
    from trainers.retrain.fingerprint import take

    off = load_config(str(runs["bare"]["script"]), ())
    on = load_config(str(runs["bare"]["script"]), ("out_of_scope.false_alarms=0.1",))
    assert take(off, None) != take(on, None)


@pytest.mark.parametrize("verb", ["export", "combine"])
def test_what_cannot_carry_the_score_says_so(verb, runs, capsys, caplog):
    """As a warning, quiet or not, and in the JSON; a graft without one gives no word."""
    for graft, dropped in (("scored", ["out-of-scope score"]), ("bare", [])):
        path, out = runs[graft]["graft"], f"{verb}-{graft}"
        words = (path, "--format", "peft") if verb == "export" else (path, runs["bare"]["graft"])
        status, told, err = call(verb, *words, "--out", out, "--json", "--quiet", capsys=capsys)
        assert status == 0, err
        assert as_json(told)["dropped"] == dropped
        assert ("tiny: the out-of-scope score is dropped" in caplog.text) == bool(dropped)
        caplog.clear()


def test_a_plan_prices_the_pass_for_the_score(runs, tmp_path):
    script, asked = str(runs["scored"]["script"]), ("data.dev_fraction=0.25", f"out_of_scope.false_alarms={RATE}")
    with_score, without = plan(load_config(script, asked)), plan(load_config(script, asked[:1]))
    assert with_score.out_of_scope_seconds > 0 == without.out_of_scope_seconds
    parts = sum(s.seconds for s in with_score.stages)
    assert with_score.seconds == pytest.approx(parts + with_score.out_of_scope_seconds)
    assert with_score.cpu_seconds > sum(s.cpu_seconds for s in with_score.stages)
    assert "of it the out-of-scope score: " in table(with_score)
    assert "out-of-scope" not in table(without)
    probe = plan(load_config(script, (*asked, "adapter.method=probe", "plan.stages=all")))
    assert probe.out_of_scope_seconds == 0, "the probe's own pass gives the features"
    bare = plan(load_config(script, (*asked, "adapter.method=probe", "plan.stages=all", "plan.cache=none")))
    assert bare.out_of_scope_seconds > 0, "nothing is kept, so there are two passes"
    with pytest.raises(InputError, match="needs at least 999 development rows"):
        plan(load_config(script, ("data.dev_fraction=0.25", "out_of_scope.false_alarms=0.001")))
