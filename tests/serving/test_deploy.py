"""The files for deployment parse, and speak of metrics, options and routes that there are."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import topgraft
from backbone.console.options import filled
from serving.commands import Serve
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server import monitoring
from serving.server.endpoint import all_endpoints
from serving.server.limits import Limits
from serving.server.monitoring import Metrics
from serving.server.openapi import document
from tests.serving.place import ENVELOPE

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
EXPORTED = {
    f"topgraft_{name}" for name in re.findall(r'"(?:topgraft_)?([a-z_]+)"', Path(monitoring.__file__).read_text())
}


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana.json", "kubernetes.yaml", "replicas.yaml"])
def test_metrics_that_are_spoken_of_are_exported(file):
    named = set(re.findall(r"topgraft_[a-z_]+", (DEPLOY / file).read_text()))
    assert named
    for name in named:
        assert re.sub(r"_(total|bucket)$", "", name) in EXPORTED, name


def test_the_dashboard_and_the_alerts():
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    assert all(panel["targets"] for panel in dashboard["panels"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_rules_of_replicas_are_of_metrics_and_of_each_other():
    text = (DEPLOY / "replicas.yaml").read_text()
    (group,) = yaml.safe_load(text)["groups"]
    records = {rule["record"]: rule["expr"] for rule in group["rules"]}
    assert set(re.findall(r"topgraft:\w+", text)) == set(records)


def test_the_manifests_probe_routes_and_pass_options_that_exist():
    workload, service, scaler = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    routes = document(all_endpoints(), Limits(), tokens=False)["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in routes
    assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]
    entry = json.loads(re.search(r"ENTRYPOINT (\[.*\])", (DEPLOY / "Containerfile").read_text())[1])
    assert entry[:2] == ["topgraft", "serve"]
    options = topgraft.parser().parse_args([*entry[1:], *container["args"]])
    assert filled(Serve, options).registry
    assert [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]] == [
        "topgraft_queue_rows",
        "topgraft_busy",
    ]


def figure(metrics: Metrics, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", metrics.text().decode(), re.MULTILINE)[1])


def test_the_figures_of_the_autoscaler_fall_when_replicas_share_the_load(tiny, folder, monkeypatch):
    """One replica answers 64 rows a minute, then replicas answer 8 each, then nobody asks."""
    clock = [0.0]
    monkeypatch.setattr(monitoring, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))

    def minute(runtime: Runtime, metrics: Metrics, rows: int) -> float:
        for _ in range(rows):
            runtime.predict([("alpha", "ban bas")])
        clock[0] += 60.0
        busy = figure(metrics, "topgraft_busy")
        metrics.sample()
        assert figure(metrics, "topgraft_queue_rows") == 0
        return busy

    with contextlib.ExitStack() as stack:
        replicas = []
        for _ in range(2):
            runtime = stack.enter_context(Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(8,), max_wait=0.0))
            follower = Follower(runtime, FolderCatalogue(folder))
            follower.poll()
            runtime.predict([("alpha", "ban bas")])  # loads the graft
            metrics = Metrics(runtime, follower, 10)
            metrics.sample()
            replicas.append((runtime, metrics))
        alone = minute(*replicas[0], 64)
        assert 0 < alone <= 1
        shared = [minute(*replica, 8) for replica in replicas]
        assert all(0 < busy < alone for busy in shared)
        for replica in replicas:
            minute(*replica, 0)  # the last batch of a minute may be counted in the next one
        assert all(minute(*replica, 0) == 0 for replica in replicas)


def test_busy_is_the_share_of_the_last_minute():
    busy = monitoring.Busy(100.0)
    assert busy.share(104.0, 1.0) == 0.25, "since the start, where that is later"
    for now in range(102, 301, 2):
        busy.add(now, 0.5 * (now - 100))
    assert busy.share(300.0, 100.0) == pytest.approx(0.5)
    assert busy.share(300.0, 115.0) == pytest.approx((115 - 70) / 60)
    assert busy.share(300.0, 1000.0) == 1.0
