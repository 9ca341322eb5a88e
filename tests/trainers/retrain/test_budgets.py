"""A team's budget in `retrain` and `plan`: the gate names file and line, and a change of the file judges again."""

from __future__ import annotations

import numpy as np
import pytest

import topgraft
from registry.budgets.budget import Budget, BudgetLimit
from tests.tiny import as_json
from trainers.retrain.budgeted import budgeted

LOOSE = "[default]\nmax_cpu_seconds = 1e6\nfloors.macro_f1 = 0.1\nsingle_stream.max_p99_ms = 1e5\nmax_flops = 1e15\n"


def test_over_budget_is_exit_10_with_the_line_and_a_new_budget_judges_again(place, tmp_path):
    file = place.folder / "budgets.toml"  # beside the registry
    file.write_text("[task.tiny]\nmax_cpu_seconds = 0.001\n")
    first = place.run()
    assert (first["exit"], first["verdict"], first["promoted"]) == (10, "FAIL", False)
    assert f"{file}:2 max_cpu_seconds" in first["reason"]
    again = place.run()
    assert (again["exit"], again["action"]) == (10, "nothing"), "the same budget, the same verdict"
    assert f"{file}:2 max_cpu_seconds" in again["reason"]

    file.write_text("# another line\n[task.tiny]\nmax_cpu_seconds = 0.001\n")
    assert place.run()["action"] == "nothing", "lines are no part of what is asked"

    other = tmp_path / "other.toml"
    other.write_text(LOOSE.replace("max_cpu_seconds = 1e6\n", ""))
    result = place.run(options=("--budgets", str(other)))
    assert (result["exit"], result["action"], result["promoted"]) == (11, "adopt", False)
    assert f"{other}:4 max_flops" in result["reason"], "nobody counted a training that an earlier run did"
    other.write_text("[default]\nfloors.macro_f1 = 0.1\nsingle_stream.max_p99_ms = 1e5\n")
    result = place.run(options=("--budgets", str(other)))
    assert (result["exit"], result["action"], result["live"]) == (0, "adopt", 1)
    checks = {check["name"]: check for check in result["gate"]["checks"]}
    assert checks[f"{other}:3 single_stream.max_p99_ms"]["found"] > 0
    assert checks[f"{other}:2 floors.macro_f1"]["verdict"] == "PASS"


def test_every_limit_of_a_training_is_checked_where_it_is_measured(place):
    file = place.folder / "budgets.toml"
    file.write_text(LOOSE + 'max_bytes = 1e15\nmax_joules = 1e6\njoules_quality = "modelled"\nmax_latency_ms = 1e5\n')
    result = place.run("target.max_latency_ms=50000", "target.max_cpu_seconds=2e6")
    assert result["exit"] == 0, result["reason"]
    names = [check["name"] for check in result["gate"]["checks"]]
    for name in ("2 max_cpu_seconds", "3 floors.macro_f1", "4 single_stream.max_p99_ms", "5 max_flops", "6 max_bytes"):
        assert f"{file}:{name}" in names
    assert "target.max_latency_ms" in names, "the config's is the narrower one"
    version = place.registry.version("tiny", 1)
    assert version.lineage["metric"] == "accuracy"


def test_what_a_budget_cannot_mean_is_refused_before_anything_is_made(place):
    file = place.folder / "budgets.toml"
    file.write_text("[default]\nfloors.entity_f1 = 0.1\n")
    result = place.run()
    assert result["exit"] == 2
    assert f"{file}:2: floors.entity_f1: the head of tiny has no such metric" in result["reason"]
    file.write_text('[default]\nplatform = "gpu"\nmax_latency_ms = 4\n')
    result = place.run("target.platform=cpu")
    assert (result["exit"], "the config says cpu" in result["reason"]) == (2, True)
    assert not (place.folder / "registry.db").exists()


def test_a_plan_over_budget_is_exit_10(place, tmp_path, capsys):
    file = tmp_path / "team.toml"
    words = [
        "plan",
        str(place.config),
        *place.overrides("target.max_cpu_seconds=1e5"),
        "--budgets",
        str(file),
        "--quiet",
    ]
    file.write_text("[default]\nmax_flops = 1\nmax_cpu_seconds = 1e6\nmax_latency_ms = 3\n")
    assert topgraft.main([*words, "--json"]) == 10
    result = as_json(capsys.readouterr().out)
    assert result["over_budget"] == [f"{file}:2 max_flops"]
    names = [limit["name"] for limit in result["limits"]]
    assert names == ["target.max_cpu_seconds", f"{file}:4 max_latency_ms", f"{file}:2 max_flops"]
    assert topgraft.main(words) == 10
    assert f"over the limit: {file}:2 max_flops" in capsys.readouterr().out
    file.write_text("[default]\nmax_flops = 1e15\n")
    assert topgraft.main(words) == 0


def test_a_retraining_signs_what_it_promotes(place, tmp_path):
    pytest.importorskip("cryptography", reason="cryptography is not installed: topgraft[sign]")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, none = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, none))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (place.folder / "key.pub").write_bytes(key.public_key().public_bytes(pem, spki))
    entry = '[[signatures.key]]\nfile = "key.pub"\nowner = "team"\n'
    (place.folder / "budgets.toml").write_text(f"[signatures]\n{entry}")
    refused = place.run()
    assert (refused["exit"], "--sign" in refused["reason"]) == (2, True)
    assert place.run(options=("--sign", str(tmp_path / "key.pem")))["live"] == 1
    folder = place.store / place.registry.version("tiny", 1).path
    assert len(list((folder / "signatures").iterdir())) == 1


def test_a_load_is_not_measured_by_a_retraining():
    budget = Budget("t", limits=(BudgetLimit("server.max_p99_ms", 5.0, "b.toml:2"),))
    (limit,) = budgeted(budget, {}, None, lambda: np.zeros(0)).further()
    assert (limit.name, limit.value) == ("b.toml:2 server.max_p99_ms", None)
    assert "--record" in limit.reason


@pytest.mark.parametrize(("platform", "measured"), [("", 1), ("cpu", 1), ("gpu", 0), ("tpu", 0)])
def test_queries_one_by_one_are_measured_on_the_platform_of_the_budget_alone(platform, measured):
    runs = []

    def latencies():
        runs.append(1)
        return np.ones(300)

    bounds = (BudgetLimit("single_stream.max_p99_ms", 5.0, "b.toml:2"),)
    (limit,) = budgeted(Budget("t", limits=bounds, platform=platform), {}, None, latencies).further()
    assert (len(runs), limit.met) == (measured, True if measured else None)
    assert (f"platform is {platform}, this is cpu" in limit.reason) == (not measured)
