"""A runtime and a server with a router: one pass of the trunk below, the answers of the graft that is named."""

from __future__ import annotations

from collections import Counter

import jax
import numpy as np
import pytest
from starlette.testclient import TestClient

from adapters.artefact.router import read_router
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.errors import InputError
from backbone.storage import load_backbone
from serving.bank import Envelope, Group
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.limits import Tokens
from serving.server.serve import serve
from serving.server.settings import Settings
from tests.routes import TASKS, stored, texts_of
from tests.serving.grafts import held_up
from tests.serving.place import LIMITS
from tests.tiny import make_tiny_backbone, write_csv
from trainers.config.routing import Routing
from trainers.route import route

ENVELOPE = Envelope((Group((Lora(rank=2, blocks="1:"),), slots=2),), labels=2)


class Counting(dict):
    """Compiled programs, with a count of those that were fetched."""

    fetched: Counter

    def __getitem__(self, key):
        self.fetched[key[0]] += 1
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A folder of three grafts, and a router over them that knows rows of no task."""
    folder = tmp_path_factory.mktemp("routed")
    grafts = [stored(folder / "grafts", tiny, name, number) for number, name in enumerate(TASKS)]
    other = write_csv(folder / "other.csv", [(text, "none") for text in texts_of(3, 120)])
    route(grafts, folder / "router", Routing(rows=(str(other),), max_wrong=0.1))
    return folder


@pytest.fixture(scope="module")
def runtime(tiny, made):
    router = read_router(made / "router")
    with Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(1, 8), max_wait=0.0, router=router) as runtime:
        follower = Follower(runtime, FolderCatalogue(made / "grafts"))
        follower.poll()
        runtime.follower = follower
        yield runtime


@pytest.fixture(scope="module")
def client(runtime):
    server = Server(runtime, runtime.follower, LIMITS, Tokens())
    server.ready = True
    with TestClient(server.app(), raise_server_exceptions=False) as client:
        yield client


def routed_texts() -> list[str]:
    return [text for number in range(4) for text in texts_of(number, 2, seed=7)]


def test_routed_texts_get_the_answers_of_their_graft(runtime, client):
    texts = routed_texts()
    reply = client.post("/route", json={"inputs": texts})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["router"] == runtime.router.record.content_id
    tasks = [each["task"] for each in body["predictions"]]
    assert len(set(tasks)) >= 3
    assert None in tasks
    for text, each in zip(texts, body["predictions"], strict=True):
        if each["task"] is None:
            assert (each["labels"], each["version"], each["submodel"]) == ([], None, None)
            continue
        (alone,) = runtime.predict([(each["task"], text)])
        assert each["labels"] == list(alone.labels)
        assert each["probabilities"] == pytest.approx(alone.probabilities, rel=1e-5)
        assert each["content_id"] == alone.content_id


def test_the_trunk_below_runs_once(runtime, monkeypatch):
    """The graft goes on from the states of the router's pass: nothing is embedded a second time."""
    programs = runtime.programs
    counting = Counting(programs._compiled)
    counting.fetched = Counter()
    monkeypatch.setattr(programs, "_compiled", counting)
    rows = runtime.submit_routing(texts_of(0, 1, seed=7))
    states = np.stack([row.future.result(60) for row in rows])
    (choice,) = runtime.router.chosen(states)
    assert counting.fetched["embed"] == 1
    assert counting.fetched["blocks"] == 1
    runtime.predict([(choice.task, "warm")])  # it is in its slot
    counting.fetched.clear()
    (pending,) = runtime.submit([(choice.task, texts_of(0, 1, seed=7)[0])], routed=rows)
    pending.answer(60)
    assert counting.fetched["embed"] == 0
    assert counting.fetched["blocks"] == 0
    assert counting.fetched["suffix"] == 1
    (alone,) = runtime.submit([(choice.task, texts_of(0, 1, seed=7)[0])])
    alone.answer(60)
    assert counting.fetched["embed"] == 1, "the count sees a pass from the start"
    np.testing.assert_allclose(alone.future.result(), pending.future.result(), rtol=1e-5)


def test_a_row_that_waits_for_its_graft_keeps_no_states_on_the_device(runtime):
    (text,) = texts_of(2, 1, seed=7)
    (row,) = runtime.submit_routing([text])
    row.future.result(60)
    runtime.predict([(task, "warm") for task in TASKS[:2]])  # the third has no slot now
    (loaded,) = runtime.submit([(TASKS[2], text)], routed=[row])
    loaded.answer(60)
    (resident,) = runtime.submit([(TASKS[2], text)], routed=[row])
    resident.answer(60)
    assert loaded.row.states is None
    assert resident.row.states is row.states is not None
    np.testing.assert_allclose(loaded.future.result(), resident.future.result(), rtol=1e-5)


@pytest.mark.parametrize("passes", [1, 2], ids=["of one pass", "of two passes"])
def test_rows_share_a_batch_whatever_passes_they_come_from(runtime, passes):
    """Rows of one pass go on from its states on the device; rows of several from the host."""
    texts = [text for number in (2, 0, 1) for text in texts_of(number, 2, seed=7)]
    rows = []
    for part in np.array_split(texts, passes):
        gate = held_up(runtime)
        rows += runtime.submit_routing(part.tolist())
        gate.set()
        for row in rows:
            row.future.result(60)
    tasks = [*TASKS[:2]] * 3
    runtime.predict([(task, "warm") for task in TASKS[:2]])  # both are in their slots
    assert len({id(row.states) for row in rows}) == passes
    order = np.array([4, 1, 5, 0, 2, 3])  # not that of the pass
    gate = held_up(runtime)
    pending = runtime.submit([(tasks[i], texts[i]) for i in order], routed=[rows[i] for i in order])
    batches = runtime.counts.batches
    gate.set()
    answers = [row.answer() for row in pending]
    assert runtime.counts.batches == batches + 1, "one batch holds them all"
    alone = runtime.predict([(tasks[i], texts[i]) for i in order])
    for routed, single in zip(answers, alone, strict=True):
        assert routed.probabilities == pytest.approx(single.probabilities, rel=1e-4)


def test_the_compiled_head_is_the_formula(runtime):
    texts = routed_texts()
    rows = runtime.submit_routing(texts)
    compiled = np.stack([row.future.result(60) for row in rows])
    last, record = runtime.backbone.spec.blocks, runtime.router.record
    assert last not in record.boundaries
    model = GraftModel(runtime.backbone.network, (), Classification(), ("a",))
    bare = Graft(model, {"adapter": {}, "head": model.init(jax.random.key(0))["head"]}, runtime.backbone, 48)
    _, pooled = bare.logits_and_pooled(bare.encode(texts), record.boundaries)
    np.testing.assert_allclose(compiled, runtime.router.probabilities(pooled), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": []}, 400, "inputs: expected a list of strings, not empty"),
        ({"inputs": ["a"], "tasks": ["corn"]}, 400, "tasks: unknown"),
        ({"inputs": ["a"] * 9}, 400, "exceed the limit of 8"),
    ],
)
def test_bad_requests_are_named(client, body, status, message):
    reply = client.post("/route", json=body)
    assert reply.status_code == status
    assert message in reply.json()["error"]


def test_a_task_that_is_gone_is_404(runtime, client):
    texts = routed_texts()
    named = client.post("/route", json={"inputs": texts}).json()["predictions"]
    text = next(text for text, each in zip(texts, named, strict=True) if each["task"] == "rye")
    served = runtime.find("rye")
    runtime.remove("rye")
    try:
        reply = client.post("/route", json={"inputs": [text]})
        assert reply.status_code == 404
        assert "no task 'rye' is served" in reply.json()["error"]
    finally:
        runtime.offer(served)


def test_a_server_without_a_router_says_so(server):
    with TestClient(server.app()) as client:
        reply = client.post("/route", json={"inputs": ["a"]})
    assert reply.status_code == 404
    assert "start it with --router" in reply.json()["error"]


def test_a_router_of_another_trunk_is_refused(made, tmp_path, tiny):
    other = make_tiny_backbone(tmp_path / "other", seed=2)
    settings = Settings(backbone=str(other), grafts=str(made / "grafts"), port=0, router=str(made / "router"))
    with pytest.raises(InputError, match=r"--router .*: made on another trunk"):
        serve(settings)
    trunk, router = load_backbone(other), read_router(made / "router")
    with pytest.raises(InputError, match=r"router: made on another trunk"):
        Runtime(trunk, ENVELOPE, buckets=(48,), batch_sizes=(1,), router=router)
