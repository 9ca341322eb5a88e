"""The start of a server: it begins as soon as something live can be read, and ends whatever hangs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from adapters.specs import Lora
from backbone.errors import InputError
from backbone.storage import load_backbone
from registry.budgets.usage import read_usage
from registry.database import open_registry
from registry.store import Store
from serving.live.catalogue import FolderCatalogue, RegistryCatalogue, Timely
from serving.server import envelopes
from serving.server.endpoint import all_endpoints
from serving.server.limits import Limits, Tokens
from serving.server.serve import _Start, warm
from serving.server.settings import Settings
from tests.grafts import make
from tests.serving.place import SPEC
from tests.tiny import make_tiny_backbone

ASK = {"tasks": ["task"], "inputs": ["ban bas"]}


def settings(place, **more) -> Settings:
    options = {"backbone": "b", "buckets": (48,), "batch_sizes": (1,), "poll_seconds": 600.0, "labels": 4, "slots": 2}
    return Settings(**options | place | more)


def test_a_store_that_is_mounted_later_needs_no_restart(tiny, tmp_path):
    """Nothing live can be read: no envelope is guessed. The first request after the mount begins the server."""
    url, store = f"sqlite:///{tmp_path}/registry.db", tmp_path / "store"
    registry = open_registry(url)
    make(tmp_path / "graft", tiny, Lora(rank=3, sites=("mlp/up",)), seed=1)
    registry.publish("task", tmp_path / "graft", Store(store))
    registry.promote("task", 1, expected_generation=0, actor="test", reason="test", verdict="MANUAL")
    store.rename(tmp_path / "away")
    store.mkdir()
    catalogue = Timely(RegistryCatalogue(registry, Store(store)))
    options = settings({"registry": url, "store": str(store)}, limits=Limits(seconds=60))
    start = _Start(options, tiny, catalogue, Tokens(), all_endpoints())
    assert not start.begins()
    start.later()
    with TestClient(start.public) as client:
        assert client.get("/v2/health/live").status_code == 200
        response = client.get("/v2/health/ready")
        assert response.status_code == 503
        assert "no live version can be read; the first of 1: task version 1" in response.json()["reason"]
        assert client.post("/predict", json=ASK).status_code == 503
        store.rmdir()
        (tmp_path / "away").rename(store)
        response = client.post("/predict", json=ASK)
        assert response.status_code == 200, response.text
        assert client.get("/v2/health/ready").json()["ready"] is True
        with TestClient(start.admin) as admin:
            assert admin.get("/admin/state").json()["failed"] == {}

        # a graft whose read hangs: the end of the server does not wait for it
        make(tmp_path / "other", tiny, Lora(rank=3, sites=("mlp/up",)), seed=2)
        other = registry.publish("other", tmp_path / "other", Store(store))
        registry.promote("other", 1, expected_generation=0, actor="test", reason="test", verdict="MANUAL")
        manifest = store / other.content_id.removeprefix("sha256:") / "manifest.json"
        manifest.unlink()
        os.mkfifo(manifest)
        start._server.follower.poll()
        with ThreadPoolExecutor(1) as pool:
            hung = pool.submit(client.post, "/predict", json=ASK | {"tasks": ["other"]})
            while not start._server.runtime.waiting:
                time.sleep(0.02)
            begun = time.monotonic()
            start.close()
            assert time.monotonic() - begun < 20
            assert hung.result(60).status_code == 503
    assert start.result().requests["done"] == 1
    while start._server.runtime.residency.readers._calls:  # lets the reader go
        with contextlib.suppress(OSError):
            os.close(os.open(manifest, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.05)


@pytest.mark.parametrize("why", ["another backbone", "a damaged graft", "nothing is live"])
def test_where_nothing_can_be_answered_the_server_does_not_begin(why, tiny, folder, tmp_path):
    place, backbone = tmp_path / "grafts", tiny
    shutil.copytree(folder / "alpha", place / "alpha")
    catalogue = FolderCatalogue(place)
    if why == "another backbone":
        backbone = load_backbone(make_tiny_backbone(tmp_path / "other", seed=2))
    elif why == "a damaged graft":
        (place / "alpha" / "manifest.json").write_text("[" * 100_000)
    else:
        catalogue.lives = dict
    start = _Start(settings({"grafts": str(place)}), backbone, Timely(catalogue), Tokens(), all_endpoints())
    assert not start.begins()
    with TestClient(start.public) as client:
        response = client.get("/v2/health/ready")
        assert response.status_code == 503
        assert (why if why == "nothing is live" else "no live version can be read; the first of 1") in response.text
    if why == "another backbone":
        with pytest.raises(InputError, match=r"--grafts: .*grafted on another backbone.*name their backbone"):
            start.require_hope()
        start._settings = replace(start._settings, grafts=None, registry="sqlite:///r.db", store="s")
    start.require_hope()  # what is damaged may be mended, and in a registry another version may be promoted
    start.close()


def test_manifests_that_hang_keep_the_server_from_the_others_only(tiny, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(envelopes, "MANIFEST_SECONDS", 0.2)
    place = tmp_path / "grafts"
    for task in ("alpha", "gamma"):
        shutil.copytree(folder / task, place / task)
    catalogue = FolderCatalogue(place)
    lives = catalogue.lives()
    catalogue.lives = lambda: lives
    (place / "alpha" / "manifest.json").unlink()
    os.mkfifo(place / "alpha" / "manifest.json")
    live = envelopes.read_live(settings({"grafts": str(place)}), tiny, catalogue)
    assert live.nothing is None
    assert [model.methods for model in live.models] == [(SPEC,)]
    os.close(os.open(place / "alpha" / "manifest.json", os.O_WRONLY | os.O_NONBLOCK))


def test_a_graft_that_hangs_at_the_start_leaves_slots_to_the_others(server, folder, monkeypatch):
    import threading

    from serving.residency import Served

    gate, entries = threading.Event(), server.runtime.entries
    for served in entries.values():
        server.runtime.residency.drop(served.content_id)
    first = {"aaa": Served("aaa", "1", "sha256:aaa", lambda: gate.wait(60))}
    monkeypatch.setattr(type(server.runtime), "entries", property(lambda self: first | entries))
    begun = time.monotonic()
    warm(server.runtime, seconds=0.5)
    assert time.monotonic() - begun < 20
    gate.set()
    assert sum(server.runtime.residency.resident(served.content_id) for served in entries.values()) == 2


def test_what_answers_took_is_noted_at_the_end(tiny, tmp_path):
    make(tmp_path / "grafts" / "task", tiny, Lora(rank=3, sites=("mlp/up",)), seed=1)
    options = settings(
        {"grafts": str(tmp_path / "grafts")}, usage=str(tmp_path / "usage.jsonl"), limits=Limits(seconds=60)
    )
    start = _Start(options, tiny, Timely(FolderCatalogue(tmp_path / "grafts")), Tokens(), all_endpoints())
    assert start.begins()
    with TestClient(start.public) as client:
        assert client.post("/predict", json=ASK | {"inputs": ["ban bas", "bas"]}).status_code == 200
    start.close()
    lines = read_usage([str(tmp_path / "usage.jsonl")])
    assert sum(line.tasks["task"].rows for line in lines if "task" in line.tasks) == 2
    assert lines[-1].end <= time.time()
