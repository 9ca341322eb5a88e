"""Submodels over HTTP: what answered is said, a controller moves between them, grafts that lack one answer in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import topgraft
from adapters.artefact.write import save_graft
from adapters.specs import Lora
from backbone.errors import InputError
from serving.controller import Bounds, Controller, Reading
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.envelopes import default_envelope
from serving.server.limits import Limits, Tokens
from serving.server.serve import warm
from serving.server.settings import Settings
from tests.command import call
from tests.grafts import EMPTY
from tests.serving.grafts import TEXTS, graft, with_exits

LEVELS = ("full", "exits")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """One graft with every submodel, one with none."""
    path = tmp_path_factory.mktemp("grafts")
    for name, seed, has_exits in (("every", 2, True), ("none", 3, False)):
        one = graft(tiny, Lora(rank=2, alpha=4.0), seed=seed)
        exits = with_exits(one, seed).exits if has_exits else None
        save_graft(
            path / name, one.model, one.params, tiny, name=name, max_tokens=48, training=EMPTY, exits=exits
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def server(tiny, tiny_path, folder):
    bounds = Bounds(p95=0.5, dwell=1e-9)
    settings = Settings(backbone=str(tiny_path), grafts=str(folder), submodels=LEVELS, bounds=bounds)
    catalogue = FolderCatalogue(folder)
    envelope = default_envelope(settings, tiny, catalogue)
    assert envelope.exits == (1, 2)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(12,), max_wait=0.05) as runtime:
        follower = Follower(runtime, catalogue)
        made = Server(runtime, follower, Limits(seconds=60), Tokens(), settings.controller())
        follower.poll()
        warm(runtime)
        yield made


@pytest.fixture
def client(server):
    server.controller = server.metrics._controller = Controller(LEVELS, Bounds(p95=0.5, dwell=1e-9))
    server.runtime.submodel = "full"
    return TestClient(server.app())  # its lifespan, which samples by itself, is not entered


def ask(client) -> dict:
    found = client.post("/predict", json={"tasks": ["every", "none"], "inputs": TEXTS})
    assert found.status_code == 200, found.text
    return found.json()["answers"]


def test_a_controller_moves_between_them(server, client, folder, tiny):
    slow, fast = Reading(p95=1.0), Reading(p95=0.01)
    said = {}
    for reading in (fast, slow, fast):
        server.control(reading)
        answers = ask(client)
        said.setdefault(server.runtime.submodel, answers)
        assert answers["none"]["submodel"] == "full", "it has nothing else"
    assert [s.after for s in server.controller.switches] == ["exits", "full"]
    whole = topgraft.load(folder / "every", tiny)
    assert said["full"]["every"]["submodel"] == "full"

    _, place = whole.early_logits_of_rows(whole.encode(TEXTS))
    names = ["full" if at == 3 else f"exit:{at}" for at in place]
    assert said["exits"]["every"]["submodel"] == "mixed"
    assert [p["submodel"] for p in said["exits"]["every"]["predictions"]] == names

    lines = client.get("/metrics").text.splitlines()
    assert "topgraft_submodel_switches_total 2.0" in lines
    assert 'topgraft_submodel{submodel="full"} 1.0' in lines
    assert 'topgraft_submodel{submodel="exits"} 0.0' in lines
    assert f'topgraft_answers_total{{submodel="exit:1"}} {float(names.count("exit:1"))}' in lines
    stats = client.get("/stats").json()
    assert stats["submodel"] == "full"
    assert [s["why"] for s in stats["switches"]][:1] == ["p95 seconds 1 above 0.5"]


def test_the_protocol_says_what_answered(server, client, folder, tiny):
    server.runtime.submodel = "exits"
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}]}
    told = client.post("/v2/models/every/infer", json=body).json()["parameters"]
    one = topgraft.load(folder / "every", tiny)
    _, place = one.early_logits_of_rows(one.encode(TEXTS))
    assert told["submodels"] == ["full" if at == 3 else f"exit:{at}" for at in place]
    assert told["submodel"] == "mixed"
    submodels = client.get("/v2/models/every").json()["parameters"]["submodels"]
    assert submodels == {"exits": one.exits.facts()}
    assert client.get("/v2/models/none").json()["parameters"]["submodels"] == {"exits": None}


def test_a_sample_reads_what_is_there(server, client):
    server.metrics.sample()
    assert server.metrics.sample().p95 == 0.0, "nobody asked, and nobody waits"
    ask(client)
    reading = server.metrics.sample()
    assert 0 < reading.p95 < 60
    assert reading.queued == 0


def test_refusals_are_no_relief_and_neither_is_silence(server):
    metrics = server.metrics
    metrics.sample()
    for status, seconds, count in ((200, 3.0, 4), (429, 0.001, 96)):
        for _ in range(count):
            metrics.answered((), status, seconds)
    assert metrics.sample().p95 == 3.0
    assert metrics.sample().p95 == 0.0, "nobody waits"
    metrics.in_progress += 1
    try:
        assert metrics.sample().p95 is None, "somebody does, and has no answer yet"
    finally:
        metrics.in_progress -= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--submodels", "full,int4", "--p95", "1"), "'int4' is none of full, exits, pruned"),
        (("--submodels", "full,exits"), "what decides between them"),
        (("--p95", "0.2"), "a cheaper one to go to"),
        (("--submodels", "full,exits", "--p95", "-1"), "--p95: must be a finite number in (0, inf)"),
        (("--submodels", "full,exits", "--max-queued", "1024"), "--max-queued: 1024 rows are never exceeded"),
        (("--submodels", "full,bfloat16", "--p95", "1"), "use --precision bfloat16"),
        (("--dtype", "bfloat16"), "has another name now; use --precision"),
        (("--precision", "bfloat17"), "'bfloat17' is unknown"),
    ],
)
def test_options_that_cannot_be(folder, tiny_path, options, told, capsys):
    status, _, err = call("serve", "--grafts", folder, "--backbone", tiny_path, *options, capsys=capsys)
    assert (status, told in err) == (2, True), err


def test_a_bound_on_what_cannot_be_read_is_refused(folder, tiny_path, monkeypatch):
    from serving.server import serve as module

    monkeypatch.setattr(module, "thermometer", lambda accelerator: None)  # as on most virtual machines
    bounds = Bounds(max_celsius=80.0)
    settings = Settings(backbone=str(tiny_path), grafts=str(folder), port=0, submodels=("full", "exits"), bounds=bounds)
    with pytest.raises(InputError, match="--max-celsius: cannot be read on this machine"):
        module.serve(settings)


def test_by_default_it_stays_on_full(folder, tiny_path, tiny):
    settings = Settings(backbone=str(tiny_path), grafts=str(folder))
    assert settings.controller().submodel == "full"
    assert settings.controller().update(Reading(p95=1e9, queued=10**9)) is None
    assert default_envelope(settings, tiny, FolderCatalogue(folder)).exits == ()
