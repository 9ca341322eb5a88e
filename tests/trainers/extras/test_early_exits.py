"""Early exits: the test by formula and by simulation, from the real main to an artefact and its metrics, damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import topgraft
from adapters.artefact.exits import Exits
from adapters.artefact.manifest import EXITS_FILE, read_manifest
from adapters.artefact.write import save_graft
from adapters.specs import Classification, MultiLabel, Regression
from backbone.cache import row_key
from backbone.errors import InputError
from tests.command import call
from tests.tiny import as_json, rows, write_config, write_csv
from trainers.config import EarlyExits, TrainConfig
from trainers.config.load import load_config
from trainers.extras.early_exits import calibrated
from trainers.fitting.warm_start import Start
from trainers.inputs import split_off_calibration
from trainers.plan import plan
from trainers.scoring.risk import GRID, Control, control, min_rows, p_value, taken
from trainers.train import train

HELD = [text for text, _ in rows(100, seed=11)]
ASKED = ("exits.boundaries=1,2", "exits.extra_error=0.1", "exits.confidence=0.8", "data.test=")


@pytest.fixture(scope="module")
def runs(tiny_path, tmp_path_factory) -> dict[str, str]:
    """Grafts with two exits: a probe, whose states are bare, and LoRA in every block; and the probe without."""
    folder = tmp_path_factory.mktemp("exits")
    made = {"probe": "Probe()", "lora": "Lora(rank=2)"}
    found = {}
    for name, adapter in made.items():
        script = write_config(folder / f"{name}.py", tiny_path, folder, adapter=adapter, epochs="1")
        write_csv(folder / "train.csv", rows(400, seed=1))
        found[name] = train(load_config(str(script), (*ASKED, "exits.share=0.3")), folder / name).graft
    graft = topgraft.load(found["probe"])
    plain = {"name": "tiny", "max_tokens": 48, "training": graft.manifest.training}
    save_graft(folder / "bare", graft.model, graft.params, graft.backbone, **plain)
    return found | {"bare": str(folder / "bare"), "script": str(folder / "lora.py")}


def test_the_p_value_is_the_binomial_tail():
    by_hand = sum(comb(50, i) * 0.04**i * 0.96 ** (50 - i) for i in range(3))
    assert p_value(2, 50, 0.04) == pytest.approx(by_hand)
    assert p_value(3, 200, 0.05) == pytest.approx(scipy.stats.binomtest(3, 200, 0.05, "less").pvalue)
    assert p_value(200, 200, 0.05) == pytest.approx(1)
    for epsilon, delta in ((0.01, 0.1), (0.05, 0.1), (0.02, 0.05)):
        least = min_rows(epsilon, delta)
        assert p_value(0, least, epsilon) <= delta < p_value(0, least - 1, epsilon)
    assert min_rows(0.01, 0.1) == 230


def controlled(sure: np.ndarray, early: np.ndarray, full: np.ndarray, epsilon: float, delta: float) -> Control:
    """The test where answers are right or wrong: a row is lost if only the exit is wrong."""
    return control(sure, full[:, None] & ~early, epsilon, delta)


def drawn(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence [N,2] and whether two exits and the whole are right: sure of c, right with chance c**0.25."""
    sure = draw.random((count, 2))
    return sure, draw.random((count, 2)) < sure**0.25, draw.random(count) < 0.95


def test_the_threshold_is_the_loosest_that_passes_in_order():
    sure, early, full = drawn(np.random.default_rng(0), 400)
    found = controlled(sure, early, full, 0.1, 0.1)
    passed = []
    for threshold in GRID:
        losses = 0
        for i in range(400):
            exits = [e for e in range(2) if sure[i, e] >= threshold]
            losses += bool(exits) and full[i] and not early[i, exits[0]]
        passed.append(p_value(losses, 400, 0.1) <= 0.1)
        if threshold == found.threshold:
            assert losses == found.losses
    assert found.threshold == GRID[passed.index(False) - 1]
    assert np.all(np.diff(GRID) < 0)


def test_the_promise_is_broken_no_more_often_than_stated():
    """Over many draws of the calibration rows, the true risk exceeds epsilon in at most delta of them; not in none."""
    draw, epsilon, delta, trials = np.random.default_rng(1), 0.05, 0.2, 250
    sure, early, full = drawn(draw, 50_000)
    risks = {}
    for threshold in GRID.tolist():
        place = taken(sure, threshold)
        wrong = ~np.take_along_axis(early, np.maximum(place, 0)[:, None], axis=1)[:, 0]
        risks[threshold] = ((place >= 0) & wrong & full).mean()
    broken = 0
    for _ in range(trials):
        found = controlled(*drawn(draw, 300), epsilon, delta)
        broken += found.threshold is not None and risks[found.threshold] > epsilon
    assert 0 < broken <= scipy.stats.binom.ppf(1 - 1e-4, trials, delta)


def test_too_few_rows_give_no_threshold():
    rows_ = min_rows(0.05, 0.1)
    perfect = np.ones((rows_, 1)), np.ones((rows_, 1), bool), np.ones(rows_, bool)
    assert controlled(*perfect, 0.05, 0.1).threshold == GRID[-1]
    assert controlled(*(part[1:] for part in perfect), 0.05, 0.1).threshold is None
    lost = controlled(perfect[0], ~perfect[1], perfect[2], 0.05, 0.1)
    assert (lost.threshold, lost.losses, lost.rows) == (None, rows_, rows_)


def test_what_cannot_be_certified_is_told(caplog):
    """An exit that is surely wrong: none is taken, and the log says what it would need."""
    asked = EarlyExits(boundaries=(1,), extra_error=0.1)
    labels = np.zeros(60, int)
    full, early = np.eye(2)[labels], 60 * np.eye(2)[1 - labels][:, None]
    parts = np.zeros((1, 4, 2), np.float32), np.zeros((1, 2), np.float32)
    assert calibrated(asked, (1,), *parts, early, full, labels, Classification()) is None
    assert "of 60 calibration rows 60 have more mistakes early" in caplog.text
    assert "no number of rows like these" in caplog.text
    assert calibrated(asked, (1,), *parts, -early, full, labels, Classification()).left == (1.0,)


@pytest.mark.parametrize("name", ["probe", "lora"])
def test_exits_answer_from_the_grafts_own_states(runs, name):
    """Recomputed by hand, operation by operation: states below, their mean, the head, the first that is sure."""
    graft = topgraft.load(runs[name])
    exits, model = graft.exits, graft.model
    assert (exits.boundaries, exits.extra_error, exits.confidence) == ((1, 2), 0.1, 0.8)
    assert 0.6 * 120 < exits.rows < 1.4 * 120, "a share of 0.3 of 400 rows"
    assert sum(exits.left) > 0.05
    encoded = graft.encode(HELD)
    # stricter than what was calibrated, so that some leave at each and some do not
    _, pooled = graft.logits_and_pooled(encoded, exits.boundaries)
    sure = [
        exits.head.confidence(exits.logits(number, part)) for number, part in enumerate(np.split(pooled, 2, axis=1))
    ]
    exits = replace(exits, threshold=float(np.quantile(np.maximum(*sure), 0.3)))
    logits, place = replace(graft, exits=exits).early_logits_of_rows(encoded)
    assert set(place) == {1, 2, 3}
    whole = graft.logits(HELD)
    for i in np.concatenate([np.flatnonzero(place == boundary)[:3] for boundary in (1, 2, 3)]):
        ids = encoded[i][None]
        inputs, wanted, answered = {"ids": ids, "mask": np.ones(ids.shape, bool)}, whole[i], 3
        for number, boundary in enumerate(exits.boundaries):
            hooks = None
            if model.site_parts:
                from adapters.hooks import GraftHooks

                hooks = GraftHooks(model.site_parts, graft.params["adapter"])
            hidden = model.network.embed(graft.backbone.params, inputs)
            hidden = model.network.run_blocks(graft.backbone.params, hidden, inputs["mask"], hooks, stop=boundary)
            own = np.asarray(hidden)[0].mean(axis=0) @ exits.kernels[number] + exits.biases[number]
            odds = np.exp(own) / np.exp(own).sum()
            assert exits.head.confidence(own[None])[0] == pytest.approx(odds.max())
            if odds.max() >= exits.threshold:
                wanted, answered = own, boundary
                break
        assert place[i] == answered
        np.testing.assert_allclose(logits[i], wanted, atol=2e-4)


def test_calibration_rows_are_seen_by_nothing(runs, tiny):
    """They are a share of the train rows by hash, gone from what is trained on, wherever a row stands."""
    from trainers.data.examples import load_data

    config = load_config(runs["script"], ASKED)
    data = load_data(config.data, config.head, tiny)
    rest, aside = split_off_calibration(config, tiny, data)
    _, others = split_off_calibration(replace(config, seed=1), tiny, data)
    assert {row_key(row) for row in others.rows} != {row_key(row) for row in aside.rows}
    kept = {row_key(row) for row in rest.splits["train"].rows}
    assert not kept & {row_key(row) for row in aside.rows}
    assert len(rest.splits["train"]) + len(aside) == len(data.splits["train"])
    assert rest.splits["dev"] is data.splits["dev"]
    assert set(topgraft.load(runs["lora"]).manifest.training.costs) >= {"exits", "train"}


def test_a_start_must_not_have_seen_them(runs, tmp_path):
    """From a graft with the same seed and share its calibration rows are still unseen; from others they are not."""
    start, share = Start(Path(runs["lora"])), "exits.share=0.3"
    again = train(load_config(runs["script"], (*ASKED, share)), tmp_path / "again", start=start)
    assert again.exits["calibration_rows"] == topgraft.load(runs["lora"]).exits.rows
    for setting in ("seed=1", "exits.share=0.4"):
        with pytest.raises(InputError, match="to start from was fitted to rows that are to calibrate"):
            train(load_config(runs["script"], (*ASKED, share, setting)), tmp_path / setting, start=start)


def test_they_are_part_of_the_artefact(runs, tmp_path, tiny):
    graft, bare = topgraft.load(runs["probe"]), topgraft.load(runs["bare"])
    assert bare.exits is None
    assert bare.manifest.content_id != graft.manifest.content_id
    with pytest.raises(InputError, match="no early exits"):
        bare.early_logits_of_rows(bare.encode(HELD[:2]))
    folder = tmp_path / "g"
    shutil.copytree(runs["probe"], folder)
    whole = (folder / EXITS_FILE).read_bytes()
    (folder / EXITS_FILE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=EXITS_FILE):
        topgraft.load(folder, tiny)
    (folder / EXITS_FILE).unlink()
    with pytest.raises(InputError, match=f"{EXITS_FILE}: missing"):
        topgraft.load(folder, tiny)
    assert EXITS_FILE in read_manifest(folder).files


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"threshold": 1.5}, "out of their range"),
        ({"boundaries": (2, 1)}, "out of their range"),
        ({"boundaries": (1, 3)}, "out of their range"),
        ({"kernels": np.full((2, 32, 3), np.nan, np.float32)}, "not finite"),
        ({"biases": np.zeros((2, 4), np.float32)}, "biases"),
    ],
)
def test_exits_that_were_written_wrongly_are_refused(runs, tmp_path, tiny, change, told):
    """Hashes that fit do not make them valid."""
    graft = topgraft.load(runs["probe"], tiny)
    rest = {"name": "t", "max_tokens": 48, "training": graft.manifest.training, "exits": replace(graft.exits, **change)}
    save_graft(tmp_path / "g", graft.model, graft.params, tiny, **rest)
    with pytest.raises(InputError, match=told):
        topgraft.load(tmp_path / "g", tiny)


def test_the_verbs_tell_them(runs, capsys):
    status, out, err = call("inspect", runs["probe"], "--json", capsys=capsys)
    assert status == 0, err
    facts = as_json(out)["facts"]["exits"]
    assert facts == topgraft.load(runs["probe"]).exits.facts()
    for setting, told in (
        ("exits.boundaries=3", "exits.boundaries: 3 is not in 1..2"),
        ("exits.boundaries=2,1", "boundaries: must ascend"),
        ("exits.extra_error=0.001", "needs at least 1609 calibration rows"),
        ("exits.share=1.0", "share: must lie between 0 and 1"),
    ):
        more = [part for pair in (*ASKED, setting) for part in ("--set", pair)]
        status, _, err = call("train", runs["script"], "--workdir", setting, *more, capsys=capsys)
        assert (status, told in err) == (2, True), err
        assert not Path(setting, "graft").exists()


def test_evaluate_scores_what_exits_would_answer(runs, capsys):
    write_csv(Path("more.csv"), rows(60, seed=9))
    found = {}
    for submodel in ("full", "exits"):
        options = ("--file", "more.csv", "--submodel", submodel, "--json")
        status, out, err = call("evaluate", runs["lora"], *options, capsys=capsys)
        assert status == 0, err
        found[submodel] = as_json(out)
    graft = topgraft.load(runs["lora"])
    logits, place = graft.early_logits_of_rows(graft.encode([text for text, _ in rows(60, seed=9)]))
    right = [
        graft.model.labels[row.argmax()] == label for row, (_, label) in zip(logits, rows(60, seed=9), strict=True)
    ]
    assert found["exits"]["metrics"]["test"]["accuracy"] == pytest.approx(np.mean(right))
    assert found["exits"]["answered"]["test"] == {str(b): int((place == b).sum()) for b in np.unique(place)}
    assert found["full"]["answered"] == {}
    status, _, err = call("evaluate", runs["bare"], "--file", "more.csv", "--submodel", "exits", capsys=capsys)
    assert (status, "no early exits" in err) == (2, True)


def test_a_plan_counts_them(runs):
    """The rows put aside are no train rows, and the passes for the exits have their price."""
    config = load_config(runs["script"], (*ASKED, "exits.share=0.3"))
    found, plain = plan(config), plan(load_config(runs["script"], ("data.test=",)))
    steps = json.loads((Path(runs["lora"]).parent / "result.json").read_text())["steps"]
    assert sum(stage.steps for stage in found.stages) == steps < sum(stage.steps for stage in plain.stages)
    assert found.exits_seconds > 0 == plain.exits_seconds
    with pytest.raises(InputError, match="needs at least"):
        plan(load_config(runs["script"], (*ASKED, "exits.extra_error=0.0001")))


def test_of_several_labels_a_row_is_lost_by_more_mistakes():
    """The decision most in doubt is how sure an exit is; what it gets wrong is counted against full depth."""
    head = MultiLabel(threshold=0.4)
    logits = np.log(np.array([[0.9, 0.1, 0.45], [0.9, 0.2, 0.3]]) / np.array([[0.1, 0.9, 0.55], [0.1, 0.8, 0.7]]))
    np.testing.assert_allclose(head.confidence(logits.astype(np.float32)), [0.45, 0.7], rtol=1e-5)
    labels = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
    assert head.mistakes(logits, labels).tolist() == [1, 0]
    full = np.where(labels > 0, 9.0, -9.0).astype(np.float32)
    full[0, :2] = -9.0  # two mistakes where the exit has one: the exit loses nothing
    asked, parts = EarlyExits(boundaries=(1,), extra_error=0.1), (np.zeros((1, 4, 3)), np.zeros((1, 3)))
    many = (np.repeat(part, 60, axis=0) for part in (logits[:, None], full, labels))
    result = calibrated(asked, (1,), *parts, *many, head)
    assert (result.rows, result.losses, result.left) == (120, 0, (1.0,))
    worse = (np.repeat(part, 60, axis=0) for part in (-logits[:, None], full, labels))
    strict = calibrated(asked, (1,), *parts, *worse, head)
    assert strict.left == (0.0,), "an exit that is wrong is let through nowhere"
    assert strict.threshold > head.confidence(-logits).max()


def test_a_run_with_several_labels_keeps_its_promise_on_fresh_rows(tiny_path, tmp_path, capsys):
    """Each text has the label of its words and, with many words, another; LoRA, whose exits lie among its blocks."""
    script = write_config(tmp_path / "c.py", tiny_path, tmp_path, adapter="Lora(rank=2)", head="MultiLabel()")
    for name, count, seed in (("train", 400, 1), ("test", 200, 2)):
        table = [(text, f"{label};long" if len(text.split()) > 9 else label) for text, label in rows(count, seed=seed)]
        write_csv(tmp_path / f"{name}.csv", table)
    settings = ("exits.boundaries=1,2", "exits.extra_error=0.15", "exits.share=0.3", "data.label_separator=;")
    run = train(load_config(str(script), (*settings, "optimizer.learning_rate=0.01")), tmp_path / "run")
    assert run.exits is not None
    assert sum(run.exits["left_at_each"]) > 0.1
    graft = topgraft.load(run.graft)
    table = rows(300, seed=9)
    encoded = graft.encode([text for text, _ in table])
    names = [[label, "long"] if len(text.split()) > 9 else [label] for text, label in table]
    labels = np.array([[float(name in row) for name in graft.model.labels] for row in names])
    early, place = graft.early_logits_of_rows(encoded)
    assert (place < 3).mean() > 0
    full = graft.logits_of_rows(encoded)
    lost = (((early > 0) != labels).sum(axis=1) > ((full > 0) != labels).sum(axis=1)) & (place < 3)
    assert 0 < lost.mean() < 0.15 + 3 * np.sqrt(0.15 * 0.85 / 300)
    status, stdout, _ = call("evaluate", run.graft, "--submodel", "exits", "--json", "--quiet", capsys=capsys)
    assert status == 0
    assert as_json(stdout)["answered"]["test"]["1"] > 0


def test_what_a_config_may_ask():
    for wrong in (lambda: EarlyExits(boundaries=(2, 2)), lambda: EarlyExits(confidence=1.0)):
        with pytest.raises(InputError):
            wrong()
    for head, metric in ((Regression(), "pearson"), (Classification(pair="cross"), "accuracy")):
        data = TrainConfig().data if head.pair == "none" else replace(TrainConfig().data, text_pair="b")
        with pytest.raises(InputError, match="exits"):
            TrainConfig(head=head, metric=metric, data=data, exits=EarlyExits(boundaries=(1,)))


def test_a_graft_that_reads_lower_has_no_exit_above(tiny_path, tmp_path, caplog):
    script = write_config(tmp_path / "c.py", tiny_path, tmp_path, adapter="Probe(boundaries=(1,))")
    settings = (*ASKED, "exits.boundaries=2", "exits.share=0.3")
    assert train(load_config(str(script), settings), tmp_path / "run").exits is None
    assert "nothing above boundary 1" in caplog.text


def test_exits_that_are_off_are_no_reason_to_retrain(runs):
    from trainers.retrain.fingerprint import take

    assert take(load_config(runs["script"], ()), None) != take(load_config(runs["script"], ASKED), None)


def test_what_is_made_from_a_graft_has_none_and_says_so(runs, tiny_path, caplog):
    from adapters.combination import Combination
    from adapters.export.peft import export_peft
    from adapters.mixing import combine

    mixed = combine([runs["lora"], runs["lora"]], "mixed", Combination(how="linear"), backbone=tiny_path)
    assert topgraft.load(mixed.path, tiny_path).exits is None
    assert caplog.text.count("no place in a combined graft") == 2
    assert mixed.dropped == export_peft(runs["lora"], "peft", backbone=tiny_path).dropped == ("early exits",)
    assert "no place in a PEFT folder" in caplog.text


def test_the_file_keeps_every_value(runs):
    exits = topgraft.load(runs["lora"]).exits
    again = Exits(**vars(exits))
    for name, leaf in again.tensors().items():
        np.testing.assert_array_equal(leaf, exits.tensors()[name])
