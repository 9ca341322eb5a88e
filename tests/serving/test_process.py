"""A real server process on a registry: swaps under load, vanishing clients, a lost registry, the page, SIGTERM.

The tests share one process and run in order; the last one ends it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

import topgraft
from adapters.specs import Lora
from registry.database import Registry, open_registry
from registry.store import Store
from tests import browser
from tests.browser import WIDTHS, needs_chromium
from tests.grafts import make

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds: a busy machine starts slowly


@dataclass
class Service:
    """The process, its registry and what it has said."""

    process: subprocess.Popen[str]
    registry: Registry
    folder: Path
    versions: dict[str, topgraft.Graft]  # by content_id
    lines: list[str] = field(default_factory=list)
    url: str = ""

    def promote(self, number: int) -> None:
        live = self.registry.live("task")
        generation = live.generation if live else 0
        self.registry.promote(
            "task", number, expected_generation=generation, actor="test", reason="test", verdict="MANUAL"
        )

    def ask(self, client: httpx.Client, text: str = "ban bas") -> dict:
        response = client.post(f"{self.url}/predict", json={"tasks": ["task"], "inputs": [text]})
        assert response.status_code == 200, response.text
        return response.json()["answers"]["task"]


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def service(tiny, tiny_path, tmp_path_factory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    registry, store, versions = open_registry(f"sqlite:///{folder}/registry.db"), Store(folder / "store"), {}
    for seed in range(5):
        # the last is of another shape: what runs its canary is compiled when it is loaded
        make(folder / f"graft{seed}", tiny, Lora(rank=1 if seed == 4 else 2, blocks="1:"), seed=seed)
        found = registry.publish("task", folder / f"graft{seed}", store)
        versions[found.content_id] = topgraft.load(folder / f"graft{seed}", tiny)
    command = [
        sys.executable, "-m", "topgraft", "serve", "--registry", f"sqlite:///{folder}/registry.db",
        "--store", str(folder / "store"), "--backbone", str(tiny_path), "--port", "0", "--buckets", "48",
        "--batch-sizes", "8", "--poll-seconds", "0.2", "--slots", "2", "--labels", "4", "--json",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_VARIANTS": "labels.py"}
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/serving.md").read_text(), re.DOTALL | re.MULTILINE)
    (own_endpoint,) = [block for block in blocks if "Protocol" in block]
    (folder / "labels.py").write_text(own_endpoint)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    made = Service(process, registry, folder, versions)
    made.promote(1)
    threading.Thread(target=lambda: made.lines.extend(iter(process.stderr.readline, "")), daemon=True).start()

    def listening() -> bool:
        assert process.poll() is None, "".join(made.lines)
        found = re.search(r"serving on (http://\S+)", "".join(made.lines))
        made.url = found[1] if found else ""
        return bool(found)

    until(listening, "the server never listened")
    yield made
    process.kill()
    process.wait()
    registry.close()


def test_a_promotion_under_load_drops_and_mixes_nothing(service):
    """Four clients ask without a pause while versions change; each answer is that of the version it names."""
    texts = ["ban bas", "kol", "din dis del"]
    expected = {
        (content_id, text): one.predict([text])[0] for content_id, one in service.versions.items() for text in texts
    }
    seen: list[tuple[str, dict]] = []
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not stop.is_set():
                for text in texts:
                    seen.append((text, service.ask(client, text)))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load) for _ in range(4)]
        try:
            for number in (2, 3, 4):
                until(lambda: len(seen) > 20 * (number - 1), "no answers")  # noqa: B023 - used at once
                service.promote(number)
                until(lambda: seen[-1][1]["version"] == str(number), f"version {number} was never served")  # noqa: B023
        finally:
            stop.set()
        for client in clients:
            client.result(PATIENCE)
    assert {answer["version"] for _, answer in seen} == {"1", "2", "3", "4"}
    for text, answer in seen:
        wanted = expected[answer["content_id"], text]
        assert answer["predictions"][0]["labels"] == [wanted.label]
        assert answer["predictions"][0]["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-4)
        assert answer["generation"] == int(answer["version"]), "the first promotion is generation 1"


def test_the_endpoint_of_the_guide(service):
    """The file of docs/serving.md, named by TOPGRAFT_VARIANTS: it answers, refuses, is counted and documented."""
    texts = ["ban bas", "kol"]
    with httpx.Client(timeout=PATIENCE) as client:
        response = client.post(f"{service.url}/labels/task", json={"texts": texts})
        assert response.status_code == 200, response.text
        labels = [list(one.labels) for one in service.versions[live(service)].predict(texts)]
        assert response.json() == {"version": "4", "labels": labels}
        for task, body, status in (("task", b"{", 400), ("task", b"{}", 400), ("other", b"{}", 404)):
            assert client.post(f"{service.url}/labels/{task}", content=body).status_code == status
        served = client.get(f"{service.url}/openapi.json").json()
        assert served["paths"]["/labels/{task}"]["post"]["responses"].keys() >= {"200", "404", "429", "504"}
        assert served["components"]["schemas"]["Labels"]["properties"]["texts"]["maxItems"] == 256
        assert served["components"]["schemas"]["LabelsOnly"]["required"] == ["labels", "version"]
        counted = 'topgraft_requests_total{status="400",task="task"} 2.0'
        assert counted in client.get(f"{service.url}/metrics").text


def live(service: Service) -> str:
    return service.registry.live("task").content_id


def test_an_older_version_by_its_number(service):
    with httpx.Client(timeout=PATIENCE) as client:
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["kol"]}]}
        old = client.post(f"{service.url}/v2/models/task/versions/2/infer", json=body).json()
        assert old["model_version"] == "2"
        assert client.post(f"{service.url}/v2/models/task/versions/77/infer", json=body).status_code == 404
        assert client.post(f"{service.url}/v2/models/task/versions/x/infer", json=body).status_code == 404


def test_a_lost_registry_leaves_what_is_live(service):
    away = service.folder / "away.db"
    (service.folder / "registry.db").rename(away)
    with httpx.Client(timeout=PATIENCE) as client:
        until(lambda: client.get(f"{service.url}/stats").json()["unreachable"] is not None, "the loss was not noticed")
        assert service.ask(client)["version"] == "4"
        assert "topgraft_catalogue_reachable 0.0" in client.get(f"{service.url}/metrics").text
        assert client.get(f"{service.url}/v2/health/ready").status_code == 200
        away.rename(service.folder / "registry.db")
        until(lambda: client.get(f"{service.url}/stats").json()["unreachable"] is None, "the return was not noticed")


def test_clients_that_vanish_or_stall_harm_nobody(service):
    host, port = service.url.removeprefix("http://").split(":")
    body = json.dumps({"tasks": ["task"], "inputs": ["ban"] * 100}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    stalled = [socket.create_connection((host, int(port))) for _ in range(5)]
    for number, connection in enumerate(stalled):
        connection.sendall(head[: 10 * (number + 1)] if number < 3 else head + body[:20])
    for _ in range(5):
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head + body)
    with socket.create_connection((host, int(port))) as wrong:
        wrong.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b"400" in wrong.recv(100)
    with httpx.Client(timeout=PATIENCE) as client:
        counted = 'topgraft_requests_total{status="400",task="other"} 1.0'
        assert counted in client.get(f"{service.url}/metrics").text, "what the parser refuses is counted"
        assert service.ask(client)["version"] == "4"
        until(lambda: client.get(f"{service.url}/stats").json()["queue"] == 0, "rows were left behind")
    for connection in stalled:
        connection.close()


@needs_chromium
def test_the_page_answers_in_a_browser(service, tmp_path):
    """The page lists the task and asks for an answer; all it needs comes from the server itself."""
    page = httpx.get(service.url, timeout=PATIENCE).text
    assert not re.search(r"""(src|href)=["']?(http|//)""", page), "self-contained"
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
        f"{service.url}/?task=task&text=ban+bas",
    ]  # fmt: skip
    shown = subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, text=True).stdout
    assert re.search(r"<td[^>]*>task</td><td[^>]*>4</td><td>4</td><td>yes</td>", shown), shown
    wanted = service.versions[live(service)]
    assert f"task, version 4, full submodel: {wanted.predict(['ban bas'])[0].label}" in shown
    assert "submodel in use: full" in shown
    assert shown.count("<polyline") == 9
    copy = tmp_path / "served.html"  # whose size the frame around it may read
    copy.write_text(
        page.replace("<head>", "").replace("<meta charset", f'<base href="{service.url}/"><meta charset', 1)
    )
    for width in WIDTHS:
        browser.shown(f"{copy.as_uri()}?task=task&text=ban+bas", tmp_path, width, "served")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="a limit on another process needs Linux")
def test_a_full_disk_leaves_answers_and_loads(service):
    """No file can grow any more: not the cache of compiled programs, for a canary never run before, nor any other."""
    soft, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        with httpx.Client(timeout=PATIENCE) as client:
            assert service.ask(client)["version"] == "4"
            service.promote(5)
            until(lambda: service.ask(client)["version"] == "5", "the new version was never served")
            found = service.ask(client, "din dis del")
            wanted = service.versions[found["content_id"]].predict(["din dis del"])[0]
            assert found["predictions"][0]["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-4)
            assert client.get(f"{service.url}/stats").json()["refused"] == {}
            assert client.get(f"{service.url}/v2/health/ready").status_code == 200
    finally:
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
    service.promote(4)
    with httpx.Client(timeout=PATIENCE) as client:
        until(lambda: service.ask(client)["version"] == "4", "the former version was never served again")


def test_sigterm_drains_and_loses_nothing(service):
    """Eight requests are half sent when the signal comes; each is answered, and the process ends with status 0."""
    host, port = service.url.removeprefix("http://").split(":")
    body = json.dumps({"tasks": ["task"], "inputs": ["ban bas kol"] * 20}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections = [socket.create_connection((host, int(port)), PATIENCE) for _ in range(8)]
    for connection in connections:
        connection.sendall(head + body[:10])
    with httpx.Client(timeout=PATIENCE) as client:
        until(lambda: client.get(f"{service.url}/stats").json()["in_progress"] == 8, "the requests never began")
    service.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError:
            return True
        return False

    until(refused, "the server went on listening")
    for connection in connections:
        connection.sendall(body[10:])
    for connection in connections:
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        connection.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["answers"]["task"]["predictions"]) == 20
    assert service.process.wait(PATIENCE) == 0, "".join(service.lines)
    assert json.loads(service.process.stdout.read().splitlines()[-1])["exit"] == 0
