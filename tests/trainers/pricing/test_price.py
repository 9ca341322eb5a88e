"""The verb `plan`: the price before a run, beside what was measured after it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from metering.energy import Joules, modelled
from metering.window import window
from tests.command import call
from tests.home import linked
from tests.pages import well_formed
from tests.tiny import as_json
from trainers.config import Plan, TrainConfig
from trainers.pricing.climb import likely_steps
from trainers.pricing.stages import StagePrice
from trainers.pricing.timing import time_pass

STAGED = ("--set", "epochs=3", "--set", "plan.stages=geometric(0.4)")


def test_the_price_is_known_before_and_beside_what_was_measured_after(config, capsys):
    status, out, err = call("plan", config, *STAGED, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    price = as_json(out)
    assert [stage["boundary"] for stage in price["stages"]] == [0, 2]
    first, second = price["stages"]
    assert second["flops"] / second["steps"] < first["flops"] / first["steps"]
    assert first["cache_bytes"] == 0 < second["cache_bytes"]
    assert first["fill_seconds"] == first["fill_cpu_seconds"] == 0 < second["fill_seconds"]
    for stage in price["stages"]:
        parts = [stage[f"{part}_seconds"] for part in ("load", "fill", "step", "score")]
        assert stage["seconds"] == pytest.approx(sum(parts))
        assert stage["score_seconds"] > 0
        assert stage["cpu_seconds"] >= stage["fill_cpu_seconds"]
    assert price["seconds"] == pytest.approx(sum(stage["seconds"] for stage in price["stages"]))
    assert price["full_tuning_seconds"] > price["adapters_everywhere_seconds"] > 0
    assert price["joules"]["quality"] == "modelled"
    status, out, _ = call("plan", config, *STAGED, capsys=capsys)
    assert "full fine-tuning:" in out
    assert out.splitlines()[0].split()[0] == "live"

    status, out, err = call("train", config, *STAGED, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    for wanted, found in zip(price["stages"], result["stages"], strict=True):
        assert (wanted["boundary"], wanted["steps"]) == (found["boundary"], found["steps"])
        assert wanted["flops"] == pytest.approx(found["flops"])
        assert wanted["bytes_moved"] == pytest.approx(found["bytes_moved"])
    of_steps = sum(stage["flops"] for stage in result["stages"])
    assert result["costs"]["train"]["flops"] > of_steps, "filling the cache and scoring are counted too"
    assert result["costs"]["evaluate"]["flops"] > 0
    page = Path(result["report"]).read_text()
    well_formed(page)
    for part in (
        "Learning curves",
        "Freeze timeline",
        "Predicted and measured",
        "test: confusion",
        "modelled",
        "jaxlib",
    ):
        assert part in page
    assert page.count("<rect") == 2 * 3, "a bar for each stage and block"
    assert not re.search(r"""(src|href)=["']?(http|//)""", page), "self-contained"
    assert "No prediction" not in page


def test_a_plan_whose_cache_would_not_fit_is_priced_without_it(config, capsys):
    stages, unpredicted = {}, ("min_score", "max_joules", "max_latency_ms", "max_memory_mb")
    for room in ("1", "1e-5"):
        asked = ("--set", "epochs=1", "--set", "plan.stages=top(2)", "--set", f"plan.cache_gib={room}")
        target = [f"target.{name}=0.001" for name in ("max_cpu_seconds", *unpredicted)]
        target = [word for setting in target for word in ("--set", setting)]
        status, out, err = call("plan", config, *asked, *target, "--json", capsys=capsys)
        assert status == 0, err
        (stages[room],) = as_json(out)["stages"]
        limits = {limit["name"]: limit["value"] for limit in as_json(out)["limits"]}
        assert limits == {
            "target.max_cpu_seconds": as_json(out)["cpu_seconds"],
            **{f"target.{name}": None for name in unpredicted},
        }
    assert stages["1"]["cache_bytes"] > 1e-5 * 2**30
    assert stages["1e-5"]["cache_bytes"] == stages["1e-5"]["fill_seconds"] == 0 < stages["1"]["fill_seconds"]
    assert stages["1e-5"]["flops"] > stages["1"]["flops"], "blocks below run in every step"


def test_filling_from_a_boundary_below_is_priced_by_the_blocks_between(tiny):
    model = GraftModel(tiny.network, (Lora(),), Classification(), ("a", "b"))
    passes, loaded = {}, set()
    for span in ((0, 2), (1, 2)):
        with window("pass") as cost:
            made = time_pass(model, tiny, span, Counter({16: 3, 32: 70}), loaded)
        assert made.seconds > 0
        assert (made.load_seconds == 0) == (span == (1, 2)), "a run loads a program once"
        passes[span] = cost.flops
    assert passes[0, 2] == pytest.approx(2 * passes[1, 2])
    assert loaded == {(16, 0), (32, 0)}


def test_a_pass_loads_what_is_not_loaded_yet(tiny):
    """A block with an adapter is another program than a bare one."""
    model, loaded = GraftModel(tiny.network, (Lora(blocks="1:"),), Classification(), ("a", "b")), set()
    for span, programs in (((0, 1), {(16, 0)}), ((0, 2), {(16, 0), (16, 1)})):
        assert time_pass(model, tiny, span, Counter({16: 3}), loaded).load_seconds > 0, span
        assert loaded == programs


def test_a_climb_has_a_range_and_a_likely_step(config, capsys):
    """At least the first pass and an epoch of `top`; at most every step to its end."""
    arguments = ("plan", config, "--set", "plan.stages=auto", "--set", "epochs=2")
    status, out, err = call(*arguments, "--json", capsys=capsys)
    assert status == 0, err
    price = as_json(out)
    probe, top, whole = price["stages"]
    assert (probe["steps"], top["boundary"], whole["boundary"]) == (0, 1, 0)
    climb = price["climb"]
    assert climb["lowest_cpu_seconds"] == pytest.approx(probe["cpu_seconds"] + top["cpu_seconds"] / 2)
    assert climb["highest_cpu_seconds"] == pytest.approx(sum(stage["cpu_seconds"] for stage in price["stages"]))
    assert (climb["likely_step"], price["cpu_seconds"]) == ("all", pytest.approx(climb["highest_cpu_seconds"]))
    status, out, _ = call(*arguments, "--set", "plan.highest=probe", "--json", capsys=capsys)
    only = as_json(out)
    assert [stage["steps"] for stage in only["stages"]] == [0]
    assert only["climb"]["likely_step"] == "probe"
    assert only["cpu_seconds"] < price["cpu_seconds"]


def test_a_probe_is_priced_as_the_pass_that_it_is(config, capsys, tmp_path, monkeypatch):
    """Its head is fitted in closed form, so no step is run, whatever stages and epochs say."""
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))  # where no run has stored these rows
    status, out, err = call("plan", config, "--set", "adapter.method=probe", "--json", capsys=capsys)
    assert status == 0, err
    price = as_json(out)
    (only,) = price["stages"]
    assert (only["steps"], only["live"], only["step_seconds"]) == (0, "none", 0)
    assert price["cpu_seconds"] == pytest.approx(only["cpu_seconds"])
    words = ("train", config, "--set", "adapter.method=probe", "--workdir", "probed", "--json")
    status, out, err = call(*words, capsys=capsys)
    assert status == 0, err
    spent = as_json(out)["costs"]["probe"]
    assert only["flops"] == pytest.approx(spent["flops"], rel=0.15), "but for the padding of batches"


def test_with_many_labels_a_probe_is_likely_and_top_is_given_up_after_an_epoch():
    cost = Joules("modelled", 1.0, source="a test")
    whole = StagePrice("1..2", 1, 40, 800, 4e9, 8e6, 3.0, 0.5, 0, 0.0, 2.0, 16.0, 18.5, 0.0, 36.0, cost)
    probe = replace(whole, live="none", steps=0)
    config = TrainConfig(epochs=4, plan=Plan("auto", highest="all"))
    assert likely_steps(config, 29, [probe, whole, whole]) == ([probe, whole, whole], "all")
    (first, part), step = likely_steps(config, 30, [probe, whole, whole])
    assert (first, step) == (probe, "probe")
    assert (part.steps, part.padded_tokens, part.flops, part.bytes_moved) == (10, 200, 1e9, 2e6)
    assert (part.score_seconds, part.step_seconds, part.cpu_seconds) == (0.5, 4.0, 9.0)
    assert part.joules == modelled(9.0).rounded()
    (_, part), _ = likely_steps(replace(config, epochs=0.5), 30, [probe, whole])
    assert part.steps == 40, "less than an epoch is taken whole"
