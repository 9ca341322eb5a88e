"""The routes in process: the protocol, every documented error, limits, tokens, and bad artefacts beside good ones."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from starlette.testclient import TestClient

import topgraft
from adapters.artefact.manifest import dumps, read_manifest, sealed
from adapters.specs import Lora
from backbone.errors import InputError
from backbone.files import sha256_file
from serving.server.app import Server
from serving.server.limits import Limits, Tokens
from serving.server.monitoring import Metrics
from serving.server.serve import serve
from serving.server.settings import Settings
from tests.grafts import make
from tests.serving.place import LIMITS, SPEC
from tests.tiny import make_tiny_backbone


def infer(*texts: str, **more) -> dict:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}], **more}


def test_the_protocol(client, tiny, folder):
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready").json()
    assert (ready["ready"], ready["tasks"], ready["reasons"]) == (True, 3, {})
    about = client.get("/v2").json()
    assert about["name"] == "topgraft"
    assert about["buckets"] == [48]
    described = client.get("/v2/models/alpha").json()
    assert described["parameters"]["labels"] == ["first", "second", "third"]
    assert described["parameters"]["group"] == "0: lora, mean"
    version = described["versions"][0]
    assert client.get(f"/v2/models/alpha/versions/{version}/ready").json()["ready"] is True
    reference = topgraft.load(folder / "alpha", tiny).predict(["ban bas", "kol"])
    for where in ("/v2/models/alpha/infer", f"/v2/models/alpha/versions/{version}/infer"):
        found = client.post(where, json=infer("ban bas", "kol", id="7")).json()
        assert (found["id"], found["model_name"], found["model_version"]) == ("7", "alpha", version)
        labels, probabilities = found["outputs"]
        assert [json.loads(item) for item in labels["data"]] == [[one.label] for one in reference]
        assert probabilities["shape"] == [2, 3]
        for row, one in zip(np.reshape(probabilities["data"], (2, 3)), reference, strict=True):
            assert row.tolist() == pytest.approx([one.probabilities[x] for x in ("first", "second", "third")], abs=1e-4)
    only = client.post("/v2/models/beta/infer", json=infer("ban", outputs=[{"name": "labels"}])).json()
    assert [output["name"] for output in only["outputs"]] == ["labels"]


def test_several_tasks_on_the_same_inputs(client, tiny, folder):
    asked = {"tasks": ["gamma", "alpha", "beta"], "inputs": ["ban bas", "kol"], "timeout_ms": 60_000}
    answers = client.post("/predict", json=asked).json()["answers"]
    assert list(answers) == asked["tasks"]
    for task, answer in answers.items():
        one = topgraft.load(folder / task, tiny)
        assert answer["content_id"] == one.manifest.content_id
        assert answer["submodel"] == "full"
        for found, wanted in zip(answer["predictions"], one.predict(asked["inputs"]), strict=True):
            assert found["labels"] == list(wanted.labels)
            assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        (b'{"tasks": ["alpha"], "inputs": [NaN]}', 400, "NaN"),
        (b"[" * 3000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        ({"tasks": ["alpha"]}, 400, "inputs: expected a list of strings"),
        ({"tasks": ["alpha"], "inputs": []}, 400, "inputs: expected"),
        ({"tasks": ["alpha"], "inputs": [1]}, 400, "inputs: expected"),
        ({"tasks": ["alpha"], "inputs": ["a"], "task": 1}, 400, "task: unknown; nearest: tasks"),
        ({"tasks": ["alpha", "alpha"], "inputs": ["a"]}, 400, "twice"),
        ({"tasks": ["alpha"], "inputs": ["a"], "timeout_ms": 0}, 400, "timeout_ms"),
        ({"tasks": ["alpha"], "inputs": ["a"] * 9}, 400, "limit of 8"),
        ({"tasks": ["alpha"], "inputs": ["a" * 201]}, 400, "201 characters"),
        ({"tasks": ["alpha"], "inputs": ["\ud800"]}, 400, "surrogate"),
        ({"tasks": ["alpha"], "inputs": ["a" * 5000]}, 413, "4000 bytes"),
        ({"tasks": ["alhpa"], "inputs": ["a"]}, 404, "nearest: alpha"),
        ({"tasks": ["../alpha"], "inputs": ["a"]}, 404, "no task"),
        ({"tasks": ["/etc/passwd"], "inputs": ["a"]}, 404, "no task"),
    ],
)
def test_what_is_wrong_is_said(client, body, status, said):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/predict", content=content)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]
    assert client.post("/predict", json={"tasks": ["alpha"], "inputs": ["ban"]}).status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": []}, "one tensor"),
        ({"inputs": [{"name": "text", "datatype": "FP32", "shape": [1], "data": ["a"]}]}, "datatype"),
        ({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]}]}, "shape"),
        ({"outputs": [{"name": "logits"}]}, "logits"),
        ({"id": 3}, "id"),
        ({"parameters": {"binary_data": True}}, "binary_data: this extension of the protocol is not spoken here"),
    ],
)
def test_what_is_wrong_in_an_inference_request_is_said(client, change, said):
    response = client.post("/v2/models/alpha/infer", json=infer("a") | change)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_paths_that_are_no_routes(client):
    for path in (
        "/v2/models/..%2F..%2Fetc/infer",
        "/v2/models/%2Fetc%2Fpasswd/infer",
        "/v2/models/alpha/versions/9/infer",
    ):
        assert client.post(path, json=infer("a")).status_code == 404
    assert client.get("/predict").status_code == 405
    assert "error" in client.get("/nowhere").json()


def test_overload_and_deadlines(server, client):
    gate, body = threading.Event(), {"tasks": ["alpha"], "inputs": ["ban"] * 8}
    client.post("/predict", json=body)  # alpha is in a slot
    held = threading.Event()
    holding = server.runtime.call(lambda: held.set() or gate.wait(60))
    assert held.wait(60)
    kept = server.runtime.submit([("alpha", "ban")] * 30)
    response = client.post("/predict", json=body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    response = client.post("/predict", json=body | {"inputs": ["ban"], "timeout_ms": 1})
    assert response.status_code == 504
    gate.set()
    assert holding.result(60)
    assert {pending.answer(60).task for pending in kept} == {"alpha"}
    assert client.post("/predict", json=body).status_code == 200


def test_counters_and_their_bounds(server, client):
    for tasks in (["gamma"], ["alpha", "beta"], ["no-such-task-7"]):  # three grafts on two slots
        client.post("/predict", json={"tasks": tasks, "inputs": ["ban"]})
    text = client.get("/metrics").text
    for name in (
        'topgraft_request_seconds_bucket{le="0.05",task="beta"}', 'topgraft_requests_total{status="404",task="other"}',
        "topgraft_queue_rows 0.0", 'topgraft_slots{group="0"} 2.0', "topgraft_host_bytes_budget",
        'topgraft_loads_total{cause="source"}', 'topgraft_evictions_total{cause="slots"}', "topgraft_bank_bytes",
        'topgraft_generation{task="alpha"}', 'topgraft_cpu_seconds_per_request{quality="measured_counter"}',
        "topgraft_catalogue_reachable 1.0",
    ):  # fmt: skip
        assert name in text, name
    assert "no-such-task" not in text
    narrow = Metrics(server.runtime, server.follower, max_tasks=1)
    assert [narrow.label(task) for task in ("alpha", "beta", "alpha", None)] == ["alpha", "other", "alpha", "other"]
    narrow.answered(("alpha",), 200, 0.25)
    narrow.sample()
    (point,) = narrow.stats().history
    assert point.p50_ms == 250
    assert narrow.stats().joules_quality in ("measured_counter", "modelled", "unavailable")


def test_tokens(server, tmp_path):
    (tmp_path / "tokens").write_text("a-token-of-some-length\n")
    guarded = Server(server.runtime, server.follower, LIMITS, Tokens.read(tmp_path / "tokens"))
    with TestClient(guarded.app()) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/").status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-token-of-some-length"}):
            response = client.get("/tasks", headers=header)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/tasks", headers={"Authorization": "Bearer a-token-of-some-length"}).status_code == 200
    (tmp_path / "tokens").write_text("short\n")
    for file in (tmp_path / "tokens", tmp_path / "absent"):
        with pytest.raises(InputError, match="tokens"):
            Tokens.read(file)


def test_the_admin_routes(server):
    with TestClient(server.admin()) as admin, TestClient(server.app()) as public:
        assert public.post("/admin/poll").status_code == 404, "not on the public port"
        assert admin.post("/admin/poll").json() == {"changed": False, "unreachable": None, "refused": {}}
        assert admin.post("/admin/load/gamma").json()["resident"] is True
        assert admin.post("/admin/load/nothing").status_code == 404
        assert admin.get("/admin/state").json()["slots_used"] == [2]


def flipped(path: Path) -> None:
    file = path / "graft.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def exchanged(path: Path, change) -> None:
    """Other tensors under a manifest whose checksums are right."""
    file, manifest = path / "graft.safetensors", read_manifest(path)
    save_file(change(load_file(file)), file)
    files = {**manifest.files, "graft.safetensors": sha256_file(file)}
    (path / "manifest.json").write_bytes(dumps(sealed(replace(manifest, files=files))))


def not_a_number(tensors):
    return {**tensors, "head.bias": np.full_like(tensors["head.bias"], np.nan)}


def link_outward(path: Path) -> None:
    outside = path.parent.parent / "outside.safetensors"
    shutil.copy(path / "graft.safetensors", outside)
    (path / "graft.safetensors").unlink()
    (path / "graft.safetensors").symlink_to(outside)


BAD = {
    "flipped": (flipped, "sha256 differs"),
    "missing": (lambda p: exchanged(p, lambda t: {k: v for k, v in t.items() if k != "head.bias"}), "differ"),
    "extra": (lambda p: exchanged(p, lambda t: {**t, "extra": np.zeros(2, np.float32)}), "differ"),
    "nan": (lambda p: exchanged(p, not_a_number), "content_id"),
    "no-manifest": (lambda p: (p / "manifest.json").write_text("{}"), "manifest"),
    "truncated": (lambda p: (p / "canary.safetensors").write_bytes(b""), "sha256 differs"),
    "link": (link_outward, "symbolic link"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_artefact_is_refused_and_good_traffic_unharmed(server, client, folder, tiny, fault):
    """First as a new task: 503 and the reason. Then as a promotion: the former version goes on."""
    damage, reason = BAD[fault]
    shutil.rmtree(folder / "bad", ignore_errors=True)
    make(folder / "bad", tiny, SPEC, seed=21)  # a content that was never loaded whole
    damage(folder / "bad")
    server.follower.poll()
    response = client.post("/predict", json={"tasks": ["bad"], "inputs": ["ban"]})
    assert response.status_code == 503
    assert reason in response.json()["error"]
    assert client.post("/predict", json={"tasks": ["alpha"], "inputs": ["ban"]}).status_code == 200
    shutil.rmtree(folder / "bad")

    make(folder / "bad", tiny, SPEC, seed=20)
    server.follower.poll()
    good = client.post("/predict", json={"tasks": ["bad"], "inputs": ["ban"]}).json()["answers"]["bad"]
    shutil.rmtree(folder / "bad")
    make(folder / "bad", tiny, SPEC, seed=21)
    damage(folder / "bad")
    server.follower.poll()
    assert reason in server.follower.refused["bad"]
    after = client.post("/predict", json={"tasks": ["bad"], "inputs": ["ban"]}).json()["answers"]["bad"]
    assert after == good
    told = {one["task"]: one for one in client.get("/tasks").json()["tasks"]}
    assert reason in told["bad"]["refused"]
    assert told["alpha"]["refused"] is None
    shutil.rmtree(folder / "bad")
    server.follower.poll()
    assert client.post("/predict", json={"tasks": ["bad"], "inputs": ["ban"]}).status_code == 404
    assert not server.follower.refused


def test_grafts_of_another_backbone_or_outside_the_envelope(server, client, folder, tiny, tmp_path):
    from backbone.storage import load_backbone

    make(folder / "foreign", load_backbone(make_tiny_backbone(tmp_path / "other", seed=2)), SPEC)
    make(folder / "wide", tiny, Lora(rank=9, blocks="1:"))
    make(tmp_path / "outside", tiny, SPEC, seed=30)
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "empty").mkdir()
    server.follower.poll()
    for task, status, reason in (
        ("foreign", 503, "grafted on another backbone"),
        ("wide", 503, "rank 9 exceeds the bank's 4"),
        ("linked", 503, "symbolic link"),
        ("empty", 404, "no task"),
    ):
        response = client.post("/predict", json={"tasks": [task], "inputs": ["ban"]})
        assert (response.status_code, reason in response.json()["error"]) == (status, True), response.text
    for name in ("foreign", "wide", "empty"):
        shutil.rmtree(folder / name)
    (folder / "linked").unlink()
    server.follower.poll()


def test_settings_that_make_no_sense():
    for options, said in (
        ({}, "--registry URL with --store PATH, or --grafts DIR"),
        ({"registry": "sqlite:///r.db"}, "--store"),
        ({"grafts": ".", "slots": 0}, "slots"),
        ({"grafts": ".", "cache_mb": -1}, "--cache-mb: must be a whole number, at least 0"),
        ({"grafts": ".", "max_wait_ms": float("nan")}, "--max-wait-ms: must be a finite number in"),
        ({"grafts": ".", "port": 65536}, "--port: must be a whole number, 0 to 65535"),
        ({"grafts": ".", "batch_sizes": (0, 8)}, "--batch-sizes: must be a whole number, at least 1"),
        ({"grafts": ".", "batch_sizes": ()}, "--batch-sizes: at least one"),
    ):
        with pytest.raises(InputError, match=said):
            Settings(backbone="b", **options)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            serve(Settings(backbone="b", grafts=".", port=port))
    with pytest.raises(InputError, match="inputs"):
        Limits(inputs=0)
