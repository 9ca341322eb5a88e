"""What happens to a server at night: artefacts that hang, damaged neighbours, a lost catalogue, a stuck device."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from backbone.errors import InputError
from registry.entries import NoRegistry, Unavailable
from serving.batching import Batcher, Overloaded
from serving.live.catalogue import AMBIGUOUS, DAMAGED, UNKNOWN, Entry, FolderCatalogue, RegistryCatalogue, Timely
from serving.live.readers import Unanswered
from serving.live.revival import FIRST, Revival
from serving.residency import Served
from serving.server.app import Server
from serving.server.limits import Limits, Tokens
from serving.server.monitoring import Metrics
from tests.grafts import make
from tests.serving.grafts import held_up
from tests.serving.place import LIMITS, SPEC

PATIENCE = 60.0  # seconds
SHORT = 3.0  # seconds until a read is given up, in tests that wait for it


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def predict(client, *tasks: str, **more):
    return client.post("/predict", json={"tasks": list(tasks), "inputs": ["ban bas"], **more})


@pytest.fixture
def hung(server, folder, tiny, monkeypatch) -> Iterator[Path]:
    """A new task whose manifest is a pipe that nobody writes to, as a file of a network store that hangs."""
    path = folder / "hung"
    make(path, tiny, SPEC, seed=41)
    server.follower.poll()
    manifest = path / "manifest.json"
    manifest.rename(path / "kept")
    os.mkfifo(manifest)
    monkeypatch.setattr(server.follower._catalogue._readers, "_seconds", 0.3)
    yield path
    ends = time.monotonic() + PATIENCE
    pools = (server.runtime.residency.readers, server.follower._catalogue._readers)
    while any(pool._calls for pool in pools) and time.monotonic() < ends:  # lets every reader go
        with contextlib.suppress(OSError):
            os.close(os.open(manifest, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.05)
    shutil.rmtree(path)
    server.follower.poll()


def test_a_hung_artefact_harms_no_other_task(server, client, hung, folder, tiny, monkeypatch):
    """Forty probes and four hundred rows for it; others are answered, the follower goes on, and it has a reason."""
    readers = server.runtime.residency.readers
    monkeypatch.setattr(readers, "_seconds", SHORT)
    assert predict(client, "alpha").status_code == 200
    with ThreadPoolExecutor(60) as pool:
        probes = [pool.submit(client.get, "/v2/models/hung/ready") for _ in range(40)]
        rows = [pool.submit(predict, client, "hung") for _ in range(8)]
        until(lambda: server.runtime.waiting)
        start = time.monotonic()
        assert predict(client, "alpha").status_code == 200
        assert time.monotonic() - start < SHORT, "while they wait"
        make(folder / "late", tiny, SPEC, seed=42)
        assert server.follower.poll(), "the follower goes on"
        assert predict(client, "late").status_code == 200, "and what is new is read"
        for response in [one.result(PATIENCE) for one in (*probes, *rows)]:
            assert response.status_code == 503
            assert "hung" in response.json()["error"]
            assert "no end after" in response.json()["error"]
    assert server.runtime.waiting == 0, "its rows gave back their places"
    start = time.monotonic()
    assert predict(client, "hung").status_code == 503
    assert time.monotonic() - start < SHORT, "at once, from now on"
    body = client.get("/v2/health/ready").json()
    assert (body["ready"], body["unable"]) == (True, 1)
    assert "no end after" in body["reasons"]["hung"]
    assert readers.overdue
    assert f"topgraft_overdue_reads {readers.overdue}.0" in client.get("/metrics").text
    shutil.rmtree(folder / "late")
    server.follower.poll()


def test_rows_of_a_hung_load_give_their_places_back_when_their_deadline_passes(server, client, hung):
    response = predict(client, "hung", timeout_ms=50)
    assert response.status_code == 504
    assert "while a graft was loaded: hung" in response.json()["error"]
    assert server.runtime.waiting == 0


def test_a_hung_artefact_takes_only_a_share_of_the_places(server, client, hung):
    """The queue has 32 places: 8 for the rows of one graft that loads, all of them for the others."""
    with ThreadPoolExecutor(2) as pool:
        body = {"tasks": ["hung"], "inputs": ["ban"] * 8, "timeout_ms": 2000}
        waiting = pool.submit(client.post, "/predict", json=body)
        until(lambda: server.runtime.waiting == 8)
        assert predict(client, "hung").status_code == 429
        assert client.post("/predict", json={"tasks": ["alpha"], "inputs": ["ban"] * 8}).status_code == 200
        assert waiting.result(PATIENCE).status_code == 504


def test_a_server_of_which_nothing_can_be_answered_is_not_ready_and_recovers(server, client, folder, monkeypatch):
    """Where the store is gone, what is in memory is answered. Only a server with nothing is not ready."""
    entries = dict(server.runtime.entries)
    away = folder.with_name("away")
    folder.rename(away)
    assert client.get("/v2/health/ready").status_code == 200, "they are loaded"
    for served in entries.values():
        server.runtime.residency.drop(served.content_id)
        with pytest.raises((InputError, OSError)):
            server.runtime.residency.prepare(served)
    response = client.get("/v2/health/ready")
    assert response.status_code == 503
    body = response.json()
    assert body["reason"] == "none of 3 live tasks can be answered"
    assert body["reasons"].keys() == {"alpha", "beta", "gamma"}
    metrics = client.get("/metrics").text
    for line in ("topgraft_ready 0.0", "topgraft_unable_tasks 3.0", "topgraft_refused_versions 3.0"):
        assert line in metrics
    guarded = Server(server.runtime, server.follower, LIMITS, Tokens(("t" * 16,)))
    guarded.ready = True
    with TestClient(guarded.app()) as stranger:
        body = stranger.get("/v2/health/ready").json()
        assert (body["ready"], body["unable"], body["reasons"]) == (False, 3, {}), "no names without a token"
    away.rename(folder)
    until(lambda: client.get("/v2/health/ready").status_code == 200)  # nobody asks for anything
    for served in entries.values():
        server.runtime.warm(served)


def test_grafts_are_tried_again_after_pauses_that_double(server):
    tries = []
    served = Served("broken", "1", "sha256:broken", lambda: tries.append(1) or 1 / 0)
    server.runtime.offer(served)
    try:
        with pytest.raises(ZeroDivisionError):
            server.runtime.residency.prepare(served)
        now = [1000.0]
        revival = Revival(server.runtime, lambda: now[0])
        begun = []
        for _ in range(40):
            begun.append(revival.step())
            until(lambda: not server.runtime.residency.readers._calls)
            now[0] += FIRST / 2
        assert [number for number, count in enumerate(begun) if count] == [0, 2, 6, 14, 30]
    finally:
        server.runtime.remove("broken")


def test_a_stuck_device_is_not_live(server):
    strict = Server(server.runtime, server.follower, LIMITS, Tokens(), stall_seconds=0.2)
    strict.ready = True
    with TestClient(strict.app()) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        gate = held_up(server.runtime)
        until(lambda: client.get("/v2/health/live").status_code == 503)
        assert "one batch has run for" in client.get("/v2/health/live").json()["reason"]
        assert client.get("/v2/health/ready").status_code == 503
        gate.set()
        until(lambda: client.get("/v2/health/live").status_code == 200)


def test_nothing_live_is_not_ready(server):
    entries = dict(server.runtime.entries)
    with TestClient(server.app()) as client:
        for task in entries:
            server.runtime.remove(task)
        try:
            response = client.get("/v2/health/ready")
            assert (response.status_code, response.json()["reason"]) == (503, "nothing is live")
        finally:
            for served in entries.values():
                server.runtime.warm(served)
                server.runtime.offer(served)
        assert client.get("/v2/health/ready").status_code == 200


def rewritten(path: Path, change) -> None:
    file = path / "manifest.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def piped(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


NEIGHBOURS = {
    "a deep manifest": lambda path: (path / "manifest.json").write_text("[" * 100_000),
    "no number": lambda path: rewritten(path, lambda v: v["training"]["metrics"].update(dev={"f1": float("nan")})),
    "half a surrogate pair": lambda path: rewritten(path, lambda v: v.update(labels=["\ud800", "b", "c"])),
    "a kind that is no text": lambda path: rewritten(path, lambda v: v.update(head={"kind": {"a": 1}})),
    "a huge number": lambda path: rewritten(path, lambda v: v.update(max_tokens=10**4000)),
    "a folder as manifest": lambda path: ((path / "manifest.json").unlink(), (path / "manifest.json").mkdir()),
    "a manifest that hangs": piped,
    "two of one name": lambda path: shutil.copytree(path, path / "graft"),
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_a_damaged_neighbour_harms_itself_only(kind, folder, tiny, tmp_path):
    """What came beside it is live, what was live stays, and it has a version that says what it is."""
    place = tmp_path / "grafts"
    shutil.copytree(folder / "alpha", place / "alpha")
    catalogue = FolderCatalogue(place, manifest_seconds=0.3)
    before = catalogue.change()
    shutil.copytree(folder / "beta", place / "bad")
    shutil.copytree(folder / "gamma", place / "good")
    NEIGHBOURS[kind](place / "bad")
    assert catalogue.change() != before
    lives = catalogue.lives()
    assert {"alpha", "good"} <= lives.keys()
    assert lives["good"].content_id.startswith("sha256:")
    if "bad" in lives:
        assert lives["bad"].version in (DAMAGED, AMBIGUOUS, UNKNOWN)
        assert lives["bad"].lineage["error"]
    if kind != "two of one name":
        assert FolderCatalogue(place, manifest_seconds=0.3).lives().keys() == lives.keys(), "nor at the start"


def test_a_folder_that_may_not_be_read_is_no_graft(folder, tmp_path):
    if os.geteuid():
        pytest.skip("only root may become somebody else")
    place = tmp_path / "grafts"
    shutil.copytree(folder / "alpha", place / "alpha")
    (place / "lost+found").mkdir(mode=0o700)
    for part in (*reversed(tmp_path.parents), tmp_path):
        if part.stat().st_uid == 0 and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        assert list(FolderCatalogue(place).lives()) == ["alpha"]
    finally:
        os.seteuid(0)


class Slow:
    """A catalogue whose database does not answer until the event is set."""

    def __init__(self):
        self.gate = threading.Event()

    def change(self) -> object:
        self.gate.wait(PATIENCE)
        return 1

    def lives(self) -> dict[str, Entry]:
        return {}

    def version(self, task: str, version: str) -> Entry:
        self.gate.wait(PATIENCE)
        return Entry(task, version, "sha256:x")

    def path(self, entry: Entry) -> Path:
        return Path()


def test_a_catalogue_that_hangs_raises():
    slow = Slow()
    catalogue = Timely(slow, seconds=0.2)
    for ask in (catalogue.change, lambda: catalogue.version("a", "1")):
        with pytest.raises(Unanswered, match="the catalogue: no end after"):
            ask()
    assert catalogue.lives() == {}
    slow.gate.set()
    until(lambda: not catalogue._readers.overdue)
    assert catalogue.change() == 1


@pytest.mark.parametrize("error", [Unavailable("database: no such file"), NoRegistry("no registry"), OSError("disk")])
def test_an_old_version_while_the_catalogue_is_away(server, client, monkeypatch, error):
    """503 with the reason; once it was looked up, the version is known. A version that does not exist is 404."""

    class Lost:
        def version(self, task, number):
            raise error

    catalogue = server.follower._catalogue
    live = server.runtime.entries["alpha"]
    lost = RegistryCatalogue(Lost(), None)
    monkeypatch.setattr(catalogue, "version", lost.version)
    for ask in (client.get, lambda path: client.post(f"{path}/infer", json={"inputs": []})):
        response = ask("/v2/models/alpha/versions/7")
        assert response.status_code in (400, 503)
    response = client.get("/v2/models/alpha/versions/7")
    assert response.status_code == 503
    assert str(error) in response.json()["error"]
    assert client.get(f"/v2/models/alpha/versions/{live.version}").status_code == 200, "what is live is known"
    monkeypatch.setattr(catalogue, "version", lambda task, number: Entry(task, number, live.content_id))
    assert client.get("/v2/models/alpha/versions/7/ready").status_code == 200
    monkeypatch.setattr(catalogue, "version", lost.version)
    assert client.get("/v2/models/alpha/versions/7/ready").status_code == 200, "and so is what was looked up"
    server._versions.clear()


@pytest.mark.parametrize("version", ["9" * 30, "٣", "0", "-1", "1.5", "1\n2", "\ud800"])
def test_a_version_that_is_no_number(version):
    with pytest.raises(InputError, match="is not the number of a version"):
        RegistryCatalogue(None, None).version("alpha", version)


def test_rows_are_admitted_where_they_fit():
    """More rows than half of the places count as half: no request is refused for ever, and one exceeds the bound."""
    batcher = Batcher(lambda rows: [], max_rows=8, max_waiting=32)
    batcher.reserve(1000)
    with pytest.raises(Overloaded, match="1000 rows are waiting"):
        batcher.reserve(1)
    for _ in range(1000 - 16):
        batcher.forget()
    batcher.reserve(1000)  # half of the places are free
    for _ in range(1016 - 30):
        batcher.forget()
    batcher.reserve(2)
    with pytest.raises(Overloaded):
        batcher.reserve(1)
    batcher.reserve(0, {"graft": 500})  # rows whose graft loads have places of their own
    with pytest.raises(Overloaded):
        batcher.reserve(0, {"graft": 1})
    batcher.reserve(0, {"other": 0})
    for _ in range(32):
        batcher.forget()
    for _ in range(500):
        batcher.forget("graft")
    assert batcher.waiting == 0
    batcher.close()


def test_a_request_larger_than_the_queue_is_answered(server):
    wide = Server(server.runtime, server.follower, Limits(seconds=60), Tokens())
    with TestClient(wide.app()) as client:
        response = client.post("/predict", json={"tasks": ["alpha", "beta"], "inputs": [f"ban {n}" for n in range(40)]})
        assert response.status_code == 200, response.text
        answers = response.json()["answers"]
        assert [len(answers[task]["predictions"]) for task in ("alpha", "beta")] == [40, 40]


def test_metrics_follow_tasks_that_are_renamed(server):
    """A label value is free again once its task is no longer served, and its series end."""
    served = server.runtime.entries["alpha"]
    narrow = Metrics(server.runtime, server.follower, max_tasks=2)
    try:
        for name in ("before", "between", "after"):
            server.runtime.offer(Served(name, "1", served.content_id, served.load))
            narrow.answered((name, "beta"), 200, 0.1)
            assert narrow.label(name) == name
            assert f'topgraft_requests_total{{status="200",task="{name}"}} 1.0' in narrow.text().decode()
            server.runtime.remove(name)
        narrow.sample()
        text = narrow.text().decode()
        assert not any(name in text for name in ("before", "between", "after"))
        assert 'topgraft_requests_total{status="200",task="beta"} 3.0' in text
    finally:
        server.runtime.warm(served)
