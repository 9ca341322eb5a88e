"""Out-of-scope scores while serving: those of the offline path, whatever shares the batch, and told in every answer."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import schemathesis
from starlette.testclient import TestClient

import topgraft
from adapters.artefact.scope import Scope, reference_of, scope_of
from adapters.graft import Graft
from adapters.heads.pooling import pool
from adapters.specs import Classification, Lora, MultiLabel
from backbone.buckets import pad
from backbone.errors import InputError
from serving.bank import Envelope, Group
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.envelopes import default_envelope
from serving.server.limits import Limits, Tokens
from serving.server.settings import Settings
from tests.grafts import make
from tests.serving.grafts import graft, with_exits
from tests.tiny import WORDS, rows

BLOCKS = 3
TEXTS = [text for text, _ in rows(60, seed=3)]
STRANGE = [" ".join([WORDS[i]] * 30) for i in range(1, 120, 12)]  # one word again and again


def bare(tiny, texts, boundary: int, pooling: str) -> np.ndarray:
    """Pooled states [N,D] of the backbone alone, operation by operation."""
    ids, mask = pad(tiny.preprocessing.encode(texts, 48), 48)
    hidden = tiny.network.embed(tiny.params, {"ids": ids}, np.float32)
    hidden = tiny.network.run_blocks(tiny.params, hidden, mask, start=0, stop=boundary)
    if boundary == BLOCKS:
        hidden = tiny.network.finish(tiny.params, hidden)
    return np.asarray(pool(pooling, tiny.network, tiny.params, hidden, mask))


def scope(tiny, boundary: int, pooling: str = "mean", abstain: bool = False) -> Scope:
    """A score fitted to forty texts and calibrated on the other twenty; with a reference."""
    features = bare(tiny, TEXTS, boundary, pooling)
    one = scope_of(features[:40], np.ones((40, 1)), features[40:], boundary, 0.1, abstain)
    lengths = np.array([len(ids) for ids in tiny.preprocessing.encode(TEXTS[40:], 48)])
    reference = reference_of(lengths, one.scores(features[40:]), np.arange(20) % 3, 3)
    return Scope(**vars(one) | {"reference": reference})


CASES = {
    # title: methods, head, boundary: at the group's start, above it, at the last, of each pooling
    "below": (Lora(rank=2, blocks="1:"), Classification(), 1),
    "above": (Lora(rank=2, blocks="1:"), MultiLabel(), 2),
    "last": (Lora(rank=2, blocks="1:"), Classification(), 3),
    "first": (Lora(rank=2, blocks="1:"), Classification(pooling="first"), 3),
    "attention": (Lora(rank=2, blocks="2:"), Classification(pooling="attention"), 3),
}


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """A graft for each case, one that abstains and one without a score."""
    path = tmp_path_factory.mktemp("scoped")
    for seed, (name, (spec, head, boundary)) in enumerate(CASES.items()):
        pooling = "mean" if head.pooling == "attention" else head.pooling
        make(path / name, tiny, spec, head, seed=seed, scope=scope(tiny, boundary, pooling))
    make(path / "shy", tiny, Lora(rank=2, blocks="1:"), seed=20, scope=scope(tiny, 3, abstain=True))
    make(path / "bare", tiny, Lora(rank=2, blocks="1:"), seed=21)
    return path


@pytest.fixture(scope="module")
def grafts(folders, tiny):
    return {path.name: topgraft.load(path, tiny) for path in sorted(folders.iterdir())}


def test_scores_in_a_mixed_batch_are_those_of_each_graft_alone(tiny, grafts):
    """One batch of every graft and of strange and known texts; nothing compiles once it is ready."""
    envelope = Envelope.around([one.model for one in grafts.values()], slots=4, labels=3, scopes=(1, 2, -1))
    texts = TEXTS[40:43] + STRANGE[:3]
    asked = list(itertools.product(grafts, texts))
    compiled: list[str] = []
    with Runtime(tiny, envelope, buckets=(48,), batch_sizes=(16,), max_wait=0.05) as runtime:
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
        )
        for name, one in grafts.items():
            runtime.load(name, one)
        compiled.clear()
        answers = runtime.predict(asked)
        runtime.features(texts)
        assert compiled == []
        plain = [runtime.predict([("bare", text)])[0] for text in texts]
        shallow = runtime.counts.scope_blocks
        runtime.predict([("below", texts[0])])
        assert runtime.counts.scope_blocks == shallow, "its state lies on the way"
        runtime.predict([("last", texts[0]), ("last", texts[0])])
        assert runtime.counts.scope_blocks == shallow + 2, "two blocks, once for the input that both ask of"
    wanted = {name: dict(zip(texts, one.predict(texts), strict=True)) for name, one in grafts.items()}
    for (name, text), found in zip(asked, answers, strict=True):
        expected = wanted[name][text]
        assert found.labels == expected.labels, (name, text)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        if name == "bare":
            assert (found.out_of_scope, found.abstained) == (None, False)
            continue
        assert found.out_of_scope == pytest.approx(expected.out_of_scope, rel=1e-3), (name, text)
        assert found.abstained == (name == "shy" and expected.out_of_scope > 1)
    assert any(found.abstained for found in answers)
    assert [one.out_of_scope for one in plain] == [None] * len(texts)
    values = {round(found.out_of_scope, 4) for found in answers if found.out_of_scope is not None}
    assert len(values) > 3 * len(texts), "each graft and text has a score of its own"


def test_a_boundary_outside_the_envelope_is_refused(tiny, folders):
    envelope = Envelope((Group((Lora(rank=2, blocks="1:"),), slots=1),), labels=3)
    with Runtime(tiny, envelope, buckets=(48,), batch_sizes=(8,)) as runtime:
        with pytest.raises(InputError, match=r"measured at boundary 2, the envelope declared at start has \(3,\)"):
            runtime.load("above", folders / "above")
        assert runtime.entries == {}
        runtime.load("last", folders / "last")
    with pytest.raises(InputError, match=r"scopes: 4 is not in 0\.\.3"):
        Envelope(envelope.groups, 3, scopes=(4,)).scope_boundaries(BLOCKS)
    assert Envelope(envelope.groups, 3, scopes=(-1, 3, 0)).scope_boundaries(BLOCKS) == (0, 3)


def test_the_default_envelope_holds_the_boundaries_that_are_live(tiny, folders):
    settings = Settings(backbone=str(tiny.path), grafts=str(folders))
    assert default_envelope(settings, tiny, FolderCatalogue(folders)).scopes == (1, 2, 3)


@pytest.fixture(scope="module")
def server(tiny, folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    for name in ("shy", "bare"):
        (folders / name).rename(path / name)
    envelope = Envelope((Group((Lora(rank=2, blocks="1:"),), slots=2),), labels=3)
    with Runtime(tiny, envelope, buckets=(48,), batch_sizes=(16,), max_wait=0.0) as runtime:
        follower = Follower(runtime, FolderCatalogue(path))
        follower.poll()
        made = Server(runtime, follower, Limits(), Tokens())
        made.ready = True
        yield made, path


def test_answers_tell_it(server, tiny):
    made, path = server
    texts = TEXTS[40:42] + STRANGE[:4]
    wanted = topgraft.load(path / "shy", tiny).predict(texts)
    assert {(one.labels == ()) for one in wanted} == {True, False}
    with TestClient(made.app()) as client:
        answers = client.post("/predict", json={"tasks": ["shy", "bare"], "inputs": texts}).json()["answers"]
        for found, one in zip(answers["shy"]["predictions"], wanted, strict=True):
            assert found["labels"] == list(one.labels)
            assert found["out_of_scope_score"] == pytest.approx(one.out_of_scope, rel=1e-3)
            assert found["abstained"] == (one.out_of_scope > 1)
        for found in answers["bare"]["predictions"]:
            assert (found["out_of_scope_score"], found["abstained"], len(found["labels"])) == (None, False, 1)
        tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
        outputs = {
            one["name"]: one for one in client.post("/v2/models/shy/infer", json={"inputs": [tensor]}).json()["outputs"]
        }
        assert outputs.keys() == {"labels", "probabilities", "out_of_scope_score", "abstained"}
        assert outputs["out_of_scope_score"]["data"] == pytest.approx([one.out_of_scope for one in wanted], rel=1e-3)
        assert outputs["abstained"] == {
            "name": "abstained", "datatype": "BOOL", "shape": [6], "data": [one.labels == () for one in wanted],
        }  # fmt: skip
        assert [json.loads(item) for item in outputs["labels"]["data"]] == [list(one.labels) for one in wanted]
        asked = {"inputs": [tensor], "outputs": [{"name": "abstained"}]}
        only = client.post("/v2/models/shy/infer", json=asked).json()["outputs"]
        assert [one["name"] for one in only] == ["abstained"]
        refused = client.post("/v2/models/bare/infer", json=asked)
        assert (refused.status_code, "no out-of-scope score" in refused.json()["error"]) == (400, True)
        names = {one["name"] for one in client.get("/v2/models/bare").json()["outputs"]}
        assert names == {"labels", "probabilities"}
        described = client.get("/v2/models/shy").json()
        assert len(described["outputs"]) == 4
        price = {"boundary": 3, "false_alarms": 0.1, "abstains": True, "extra_blocks": 2, "blocks": 3}
        assert described["parameters"]["out_of_scope"] == price
        assert "topgraft_scope_blocks_total" in client.get("/metrics").text
    schema = schemathesis.openapi.from_asgi("/openapi.json", made.app())
    for address, body in (
        ("/predict", {"tasks": ["shy", "bare"], "inputs": texts}),
        ("/v2/models/{task}/infer", {"inputs": [tensor]}),
    ):
        schema[address]["POST"].Case(
            body=body, path_parameters={"task": "shy"}, media_type="application/json"
        ).call_and_validate()


def test_drift_is_exported_and_begins_anew_with_a_version(server, tiny):
    """Texts of one word thirty times: lengths and the share out of scope say so."""
    made, path = server
    with TestClient(made.app()) as client:
        for _ in range(30):
            client.post("/predict", json={"tasks": ["shy", "bare"], "inputs": STRANGE * 4})
        told = {one["task"]: one["drift"] for one in client.get("/tasks").json()["tasks"]}
        assert told["bare"] is None
        assert told["shy"]["rows"] >= 1200
        share = told["shy"]["out_of_scope"]
        assert share["low"] > share["calibrated"] == 0.1
        assert told["shy"]["lengths"] is None, "twenty development rows are too few for an effect size"
        text = client.get("/metrics").text
        assert 'topgraft_out_of_scope_share{bound="low",task="shy"}' in text
        assert 'task="bare"' not in "".join(line for line in text.splitlines() if "out_of_scope_share" in line)
        scoped = topgraft.load(path / "shy", tiny).scope
        reference = scoped.reference
        many = {name: value * 50 if name.endswith("counts") else value for name, value in vars(reference).items()}
        (path / "shy").rename(path.parent / "former-shy")
        better = Scope(**vars(scoped) | {"reference": type(reference)(**many)})
        make(path / "shy", tiny, Lora(rank=2, blocks="1:"), seed=20, scope=better)
        made.follower.poll()
        client.post("/predict", json={"tasks": ["shy"], "inputs": STRANGE * 20})
        assert {one["task"]: one["drift"] for one in client.get("/tasks").json()["tasks"]}["shy"]["rows"] == 200
        for _ in range(2):
            client.post("/predict", json={"tasks": ["shy"], "inputs": STRANGE * 20})
        text = client.get("/metrics").text
        (lengths,) = [
            line for line in text.splitlines() if line.startswith('topgraft_drift{kind="lengths",task="shy"}')
        ]
        assert float(lengths.split()[1]) > 0.25


def test_early_exits_stand_beside_a_score_on_their_way(tiny, tmp_path):
    """A score at boundary 1 of a graft that begins there: early answers have it, and abstain by it as full ones do."""
    one = make_with_exits(tiny, scope(tiny, 1, abstain=True))
    above = make_with_exits(tiny, scope(tiny, 2))
    envelope = Envelope.around([one.model], labels=3, slots=2, scopes=(1, 2), exits=(1, 2))
    texts = [*STRANGE[:6], *TEXTS[:6]]
    with Runtime(tiny, envelope, buckets=(48,), batch_sizes=(4, 12), max_wait=0.0) as runtime:
        runtime.load("one", one)
        runtime.load("above", above)
        full = runtime.predict([("one", text) for text in texts])
        runtime.submodel = "exits"
        early = runtime.predict([("one", text) for text in texts])
        assert {answer.submodel for answer in runtime.predict([("above", text) for text in texts])} == {"full"}
    assert {answer.submodel for answer in full} == {"full"}
    assert {"exit:1", "exit:2"} & {answer.submodel for answer in early}
    whole = scores_alone(one, texts)
    np.testing.assert_allclose([answer.out_of_scope for answer in early], whole, rtol=1e-4)
    np.testing.assert_allclose([answer.out_of_scope for answer in full], whole, rtol=1e-4)
    assert [answer.abstained for answer in early] == [score > 1 for score in whole]
    assert 0 < sum(answer.abstained for answer in early) < len(texts)
    assert all(answer.labels == () for answer in early if answer.abstained)


def make_with_exits(tiny, score: Scope) -> Graft:
    return replace(with_exits(graft(tiny, Lora(rank=2, blocks="1:"), seed=5), 5), scope=score)


def scores_alone(one: Graft, texts) -> np.ndarray:
    """Scores of the graft alone, in full."""
    return one.answers_of_rows(one.encode(texts))[1]
