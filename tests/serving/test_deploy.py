"""The files for deployment parse, and speak of metrics, options and routes that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import topgraft
from backbone.options import filled
from serving.commands import Serve
from serving.server import monitoring
from serving.server.endpoint import all_endpoints
from serving.server.limits import Limits
from serving.server.openapi import document

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
EXPORTED = {
    f"topgraft_{name}" for name in re.findall(r'"(?:topgraft_)?([a-z_]+)"', Path(monitoring.__file__).read_text())
}


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana.json", "kubernetes.yaml"])
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
