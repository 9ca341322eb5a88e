"""`topgraft drop-tokens`: a graft that drops tokens is certified, stored, opened, scored and served like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import topgraft
from adapters.artefact.manifest import read_manifest
from adapters.combination import Combination
from adapters.export.onnx.export import export_onnx
from adapters.export.peft import export_peft
from adapters.mixing import combine
from adapters.specs import Classification
from backbone.cache import row_key
from backbone.errors import InputError
from backbone.network.dropping import Drop
from backbone.records import decode
from serving.bank import Envelope
from serving.runtime import Runtime
from tests.command import call
from tests.tiny import SPEC, as_json, make_tiny_backbone, rows, write_config, write_csv
from trainers.config import Data
from trainers.config.dropping import Dropping
from trainers.config.load import load_config
from trainers.config.pruning import Pruning
from trainers.curation.select import with_subset
from trainers.data.examples import load_data
from trainers.data.prepare import prepare
from trainers.drop_tokens import drop_tokens
from trainers.fitting.linear_head import fit_linear, pooled_features
from trainers.fitting.warm_start import Start
from trainers.inputs import prepare as prepared_inputs
from trainers.prune import prune
from trainers.runs.run import Run
from trainers.train import train

LORA = ("epochs=3", "optimizer.learning_rate=0.01", "plan.stages=top(1)")
PROBE = ("adapter.method=probe",)
TWO = (Drop(1, 16), Drop(2, 8))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    """Rows of the same kind as the train rows."""
    return write_csv(tmp_path_factory.mktemp("rows") / "held_out.csv", rows(300, seed=5))


@pytest.fixture(scope="module")
def run(tiny_path, tmp_path_factory) -> tuple[Path, Path]:
    """A config script, and the graft of its run."""
    folder = tmp_path_factory.mktemp("trained")
    script = write_config(folder / "config.py", tiny_path, folder)
    return script, Path(train(load_config(script, LORA), folder / "run").graft)


@pytest.fixture(scope="module")
def trained(run) -> Path:
    return run[1]


@pytest.fixture(scope="module")
def dropping(trained, held_out, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dropping") / "graft"
    settings = Dropping(rows=(str(held_out),), at=(1, 2), keep=(16,), extra_error=0.2)
    assert drop_tokens(trained, folder, settings).path == str(folder)
    return folder


def test_a_graft_that_drops_tokens_is_stored_scored_and_described(trained, held_out, tmp_path, capsys):
    out = tmp_path / "dropping"
    words = ("drop-tokens", trained, "--rows", held_out, "--at", "1,2", "--keep", "40,16", "--extra-error", 0.2)
    status, stdout, _ = call(*words, "--out", out, "--json", "--quiet", capsys=capsys)
    assert status == 0
    report = as_json(stdout)
    assert report["drops"] == [{"boundary": 1, "keep": 16}, {"boundary": 2, "keep": 8}]
    assert [each["drops"][0]["keep"] for each in report["tried"]] == [40, 16]
    assert report["operations"] < 0.6
    assert 0 < report["long_rows"] <= report["rows"] <= 300
    assert report["after"]["accuracy"] >= report["before"]["accuracy"] - 0.2
    status, stdout, _ = call("evaluate", out, "--json", "--quiet", capsys=capsys)
    assert status == 0
    assert as_json(stdout)["metrics"]["test"]["accuracy"] > 0.8
    status, stdout, _ = call("inspect", out, "--json", capsys=capsys)
    assert (status, as_json(stdout)["facts"]["drops"]) == (0, report["drops"])
    manifest = read_manifest(out)
    assert manifest.content_id != read_manifest(trained).content_id
    assert manifest.training.config["drop_tokens"]["extra_error"] == 0.2


def test_altered_numbers_of_tokens_are_noticed(dropping, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in dropping.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    text = (copy / "manifest.json").read_text()
    assert '"keep": 16' in text
    (copy / "manifest.json").write_text(text.replace('"keep": 16', '"keep": 17'))
    with pytest.raises(InputError, match=r"manifest\.json: does not match its own hash"):
        topgraft.load(copy)


def test_a_runtime_answers_as_the_graft_does(trained, dropping, tiny):
    """Beside the graft with all tokens: both share the prefix below the first drop."""
    whole, fewer = topgraft.load(trained, tiny), topgraft.load(dropping, tiny)
    texts = [text for text, _ in rows(24, seed=9)]
    envelope = Envelope.around([whole.model, fewer.model], slots=2, labels=3)
    assert [group.drops for group in envelope.groups] == [(), TWO]
    with Runtime(tiny, envelope, buckets=(16, 48), batch_sizes=(1, 8), max_wait=0.0) as runtime:
        runtime.load("whole", whole)
        runtime.load("fewer", fewer)
        answers = runtime.predict([(task, text) for text in texts for task in ("whole", "fewer")])
    for graft, part in ((whole, answers[::2]), (fewer, answers[1::2])):
        for answer, expected in zip(part, graft.predict(texts), strict=True):
            assert list(answer.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-4)


def test_the_head_of_a_probe_is_fitted_anew(run, held_out, tiny, tmp_path):
    """It fits the states of the tokens that stay better than the former head does, and is served as it is."""
    path = train(load_config(run[0], PROBE), tmp_path / "run").graft
    whole = topgraft.load(path, tiny)
    settings = Dropping(rows=(str(held_out),), at=(1, 2), keep=(12,), extra_error=0.2)
    fewer = topgraft.load(drop_tokens(path, tmp_path / "fewer", settings).path, tiny)
    data = Data(train=(str(held_out),), dev_fraction=0.0, max_tokens=48)
    examples = load_data(data, whole.model.head, tiny, labels=whole.model.labels, splits=("train",)).splits["train"]
    losses = [
        float(one.model.head.loss(one.logits_of_rows(examples.rows), examples.labels).mean())
        for one in (fewer, replace(fewer, params=whole.params))
    ]
    assert losses[0] < losses[1]
    with Runtime(tiny, Envelope.around([fewer.model], labels=3), buckets=(48,), batch_sizes=(8,)) as runtime:
        runtime.load("fewer", fewer)
        texts = [text for text, _ in rows(8, seed=9)]
        for answer, expected in zip(runtime.predict([("fewer", t) for t in texts]), fewer.predict(texts), strict=True):
            assert list(answer.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-4)


def test_nothing_is_written_without_evidence(trained, held_out, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    words = ("drop-tokens", trained, "--rows", held_out, "--at", 1, "--keep", 4, "--extra-error", 0.001)
    status, stdout, _ = call(*words, "--out", out, "--json", "--quiet", capsys=capsys)
    report = as_json(stdout)
    assert (status, report["path"], report["drops"], report["operations"]) == (11, "", [], 1.0)
    assert "nothing is certified: with 4 tokens from 1 on" in caplog.text
    assert not out.exists()


def test_train_rows_certify_nothing(trained, tmp_path, caplog):
    """Rows that the graft was trained on are left out; those alone are refused."""
    data = decode(Data, dict(read_manifest(trained).training.config["data"]), "data")
    settings = Dropping(rows=data.train, at=(1,), keep=(24,), extra_error=0.4)
    report = drop_tokens(trained, tmp_path / "out", settings)
    prepared = prepare(data, Classification.column, cache=tmp_path / "cache")
    assert report.rows == len(prepared.table("dev").texts)
    assert "rows are train rows, and left out" in caplog.text
    table = prepared.table("train")
    file = write_csv(tmp_path / "train.csv", list(zip(table.texts, (label for label, *_ in table.labels), strict=True)))
    with pytest.raises(InputError, match=r"^--rows: the graft was trained on all"):
        drop_tokens(trained, tmp_path / "none", Dropping(rows=(str(file),), at=(1,)))


def test_a_probe_of_a_subset_is_fitted_anew_to_its_rows_and_the_others_certify(run, tiny, tmp_path):
    options = (*PROBE, "subset.method=random", "subset.share=0.5")
    config, folder = load_config(run[0], options), Run(tmp_path)
    path = train(config, tmp_path / "run").graft
    inputs = prepared_inputs(config, folder)
    learned = with_subset(inputs, folder).train
    settings = Dropping(rows=config.data.train, at=(1,), keep=(16,), extra_error=0.3)
    report = drop_tokens(path, tmp_path / "fewer", settings)
    keys = {row_key(row) for row in learned.rows}
    every = [row for part in (inputs.train, inputs.dev) for row in part.rows]
    assert report.rows == sum(row_key(row) not in keys for row in every) > len(inputs.dev)
    fewer = topgraft.load(report.path, tiny)
    x = pooled_features(fewer.model, tiny, {}, learned, lambda count: None)
    expected = fit_linear(fewer.model, x, learned.labels, None, "accuracy").head
    np.testing.assert_allclose(fewer.params["head"]["kernel"], expected["kernel"], rtol=1e-5, atol=1e-6)


def test_development_rows_that_a_climb_fitted_its_probe_to_certify_nothing(run, tmp_path):
    config = load_config(run[0], ("plan.stages=auto", "plan.highest=probe"))
    path = train(config, tmp_path / "run").graft
    with pytest.raises(InputError, match=r"^--rows: the graft was trained on all 240 of them"):
        drop_tokens(path, tmp_path / "fewer", Dropping(rows=config.data.train, at=(1,), keep=(16,)))


def test_default_numbers_that_drop_nothing_are_left_out(held_out, tmp_path):
    """Of 16 tokens 12, 6 and 4 may stay at three boundaries; 8 and 6 leave the third nothing to drop."""
    backbone = make_tiny_backbone(tmp_path / "backbone", spec=replace(SPEC, blocks=5))
    script = write_config(tmp_path / "config.py", backbone, tmp_path)
    path = train(load_config(script, (*PROBE, "data.max_tokens=16")), tmp_path / "run").graft
    settings = Dropping(rows=(str(held_out),), at=(1, 2, 3), extra_error=0.5)
    report = drop_tokens(path, tmp_path / "fewer", settings)
    assert [[drop.keep for drop in one.drops] for one in report.tried] == [[12, 6, 4]]
    for keep, message in (((), "--at: 4 boundaries leave nothing to drop"), ((12,), "drops: boundaries must ascend")):
        with pytest.raises(InputError, match=f"^{message}"):
            drop_tokens(path, tmp_path / "none", replace(settings, at=(1, 2, 3, 4), keep=keep))


def test_long_rows_are_those_of_the_numbers_that_were_chosen(trained, held_out, tmp_path):
    settings = Dropping(rows=(str(held_out),), at=(1,), keep=(21, 4), extra_error=0.05)
    report = drop_tokens(trained, tmp_path / "out", settings)
    assert [one.drops[0].keep for one in report.tried] == [21, 4]
    assert report.drops == (Drop(1, 21),)
    assert report.rows == 300
    assert report.long_rows == sum(len(text.split()) == 20 for text, _ in rows(300, seed=5)), "22 tokens each"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": (3,)}, r"^drops: boundary 3 is not below 3"),
        ({"at": (1,), "keep": (64,)}, r"^--keep: 64 of at most 48 tokens drops none"),
        ({"at": (1, 2), "keep": (4,)}, r"^drops: boundaries must ascend, and fewer tokens stay at each"),
    ],
)
def test_what_cannot_be_dropped_is_refused(trained, held_out, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        drop_tokens(trained, tmp_path / "out", Dropping(rows=(str(held_out),), **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": (2, 1)}, r"^--at: must ascend"),
        ({"keep": (8, 16)}, r"^--keep: must descend, from many tokens to few"),
        ({"extra_error": 0.0}, r"^--extra-error: must lie between 0 and 1"),
        ({"confidence": 1.0}, r"^--confidence: must lie between 0 and 1"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Dropping(rows=("rows.csv",), **settings)


def test_it_is_made_of_a_graft_with_all_tokens(run, dropping, held_out, tmp_path):
    with pytest.raises(InputError, match=r": drops tokens already; take the graft that it was made from"):
        drop_tokens(dropping, tmp_path / "out", Dropping(rows=(str(held_out),)))
    with pytest.raises(InputError, match=r"^start: a graft that drops tokens is trained no further"):
        train(load_config(run[0], LORA), tmp_path / "run", start=Start(dropping))


def test_what_would_answer_from_all_tokens_is_refused(run, dropping, tmp_path):
    message = r": drops tokens, which has no place here; take the graft that it was made from"
    with pytest.raises(InputError, match=message):
        export_peft(dropping, tmp_path / "peft")
    with pytest.raises(InputError, match=message):
        prune(dropping, tmp_path / "pruned", Pruning(above=1, flops=0.7))
    with pytest.raises(InputError, match=message):
        combine([run[1], dropping], tmp_path / "combined", Combination())
    with pytest.raises(InputError, match=message):
        export_onnx(dropping, tmp_path / "onnx")
    assert not any((tmp_path / name).exists() for name in ("peft", "pruned", "combined", "onnx"))


def test_a_pruned_graft_drops_tokens_too(run, held_out, tmp_path):
    prune(run[1], tmp_path / "pruned", Pruning(above=2, flops=0.7))
    settings = Dropping(rows=(str(held_out),), at=(1,), keep=(12,), extra_error=0.3)
    both = topgraft.load(drop_tokens(tmp_path / "pruned", tmp_path / "both", settings).path)
    assert (len(both.model.suffix), both.model.drops) == (1, (Drop(1, 12),))
    texts = [text for text, _ in rows(60, seed=11)]
    pairs = zip(both.predict(texts), topgraft.load(run[1]).predict(texts), strict=True)
    assert np.mean([fewer.label == whole.label for fewer, whole in pairs]) > 0.7


def test_a_graft_in_int8_drops_tokens_too(run, held_out, tmp_path):
    """With exits beside it, which are dropped by name; rows in int8 are the same bits in any batch."""
    options = (*LORA, "precision=int8", "exits.boundaries=1", "exits.extra_error=0.3", "exits.share=0.3")
    path = train(load_config(run[0], options), tmp_path / "run").graft
    settings = Dropping(rows=(str(held_out),), at=(1,), keep=(12,), extra_error=0.3)
    report = drop_tokens(path, tmp_path / "int8", settings)
    assert report.dropped == ("early exits",)
    fewer = topgraft.load(report.path)
    assert fewer.backbone.precision == "int8"
    texts = [text for text, _ in rows(9, seed=11)]
    one_by_one = np.concatenate([fewer.logits([text]) for text in texts])
    np.testing.assert_allclose(fewer.logits(texts), one_by_one, rtol=1e-5, atol=1e-5)
