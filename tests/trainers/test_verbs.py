"""The verbs plan, profile, cache and audit-labels, and the report of a run."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from metering.window import window
from tests.command import call
from tests.tiny import as_json, rows, write_csv
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
    stages = {}
    for room in ("1", "1e-5"):
        asked = ("--set", "epochs=1", "--set", "plan.stages=top(2)", "--set", f"plan.cache_gib={room}")
        status, out, err = call("plan", config, *asked, "--json", capsys=capsys)
        assert status == 0, err
        (stages[room],) = as_json(out)["stages"]
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


def well_formed(page: str) -> None:
    """Every element that must be closed is, and every picture is XML."""
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "rect", "line", "circle", "polyline", "br"):
                opened.append(tag)

        def handle_endtag(self, tag):
            if tag in ("rect", "line", "circle", "polyline"):
                return
            while opened and opened[-1] != tag and opened[-1] in ("p", "td", "th", "tr", "rect"):
                opened.pop()
            assert opened.pop() == tag

    Parser().feed(page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ET.fromstring(picture)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium on this machine")
def test_the_report_opens_in_a_browser(config, capsys, tmp_path):
    status, out, _ = call("train", config, *STAGED, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0
    page = Path(as_json(out)["report"]).resolve()
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2400", f"--screenshot={tmp_path / 'page.png'}",
        page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_a_profile_says_what_a_prediction_costs(config, capsys):
    call("train", config, "--workdir", "run", "--set", "epochs=1", capsys=capsys)
    status, out, err = call("profile", "run/graft", "--plot", "roof.svg", "--json", capsys=capsys)
    assert status == 0, err
    found = as_json(out)
    ET.fromstring(Path("roof.svg").read_text())
    for shape in found["shapes"]:
        assert shape["p50_ms"] <= shape["p95_ms"] <= shape["p99_ms"]
        assert shape["rows_per_second"] == pytest.approx(1e3 * shape["batch"] / shape["p50_ms"])
        assert shape["intensity"] == pytest.approx(shape["flops"] / shape["bytes_moved"])
        assert shape["joules_quality"] in ("modelled", "measured_counter")
    assert found["roofline_gflops"] > 1
    status, out, _ = call("profile", "run/graft", capsys=capsys)
    assert "rows x tokens" in out


def test_planted_errors_are_found(config, tmp_path, capsys):
    table = rows(400, seed=11)
    draw = random.Random(0)
    wrong = set(draw.sample(range(400), 40))
    others = {"class0": "class1", "class1": "class2", "class2": "class0"}
    table = [(t, others[label] if i in wrong else label) for i, (t, label) in enumerate(table)]
    write_csv(tmp_path / "train.csv", [*table, (table[0][0].upper(), "class1"), (table[0][0], "class2")])
    settings = ("--set", "data.dev_fraction=0.2")
    status, out, err = call("audit-labels", config, *settings, "--json", capsys=capsys)
    assert status == 0, err
    audit = as_json(out)
    assert audit["rows"] == 402, "those held out for development too"
    hits = [int(s["where"].rpartition(":")[2]) - 2 in wrong for s in audit["suspects"]]
    assert sum(hits[:20]) / 20 > 0.9, "precision on planted errors, the most suspect first"
    assert sum(hits) / len(hits) > 0.7
    assert sum(hits) / len(wrong) > 0.6, "recall"
    assert audit["duplicates"][0]["conflict"]
    assert len(audit["duplicates"][0]["where"]) == 3
    status, out, _ = call("audit-labels", config, *settings, "--max-suspects", "5", "--json", capsys=capsys)
    assert len(as_json(out)["suspects"]) == 5
    for room in ("plan.cache=none", "plan.cache_gib=1e-6"):
        status, out, err = call("audit-labels", config, *settings, "--set", room, "--json", capsys=capsys)
        assert status == 0, err
        assert {s["where"] for s in as_json(out)["suspects"]} == {s["where"] for s in audit["suspects"]}
    status, _, err = call("audit-labels", config, "--set", "data.train=", capsys=capsys)
    assert status == 2
    assert "data.train" in err
    status, _, err = call("audit-labels", config, "--set", "head.kind=multi_label", capsys=capsys)
    assert status == 2
    assert "one label per row" in err


def test_a_wrong_label_that_is_there_twice_does_not_vouch_for_itself(config, tmp_path, capsys):
    table = rows(200, seed=11)
    wrong = (table[0][0], "class1" if table[0][1] != "class1" else "class2")
    write_csv(tmp_path / "train.csv", [*[wrong] * 6, *table[1:]])
    status, out, err = call("audit-labels", config, "--json", capsys=capsys)
    assert status == 0, err
    lines = [int(s["where"].rpartition(":")[2]) for s in as_json(out)["suspects"]]
    assert set(lines[:6]) == {2, 3, 4, 5, 6, 7}


def test_cache_room(config, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    call("train", config, "--workdir", "run", "--set", "plan.stages=top(1)", "--set", "epochs=1", capsys=capsys)
    status, out, _ = call("cache", "stat", "--json", capsys=capsys)
    before = as_json(out)
    assert before["bytes"] > 0
    file = next(Path(before["variants"][0]["folder"]).glob("*.rows"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, out, err = call("cache", "verify", "--json", capsys=capsys)
    assert status == 2
    assert str(file) in err
    status, out, _ = call("cache", "gc", "--max-gib", "0", "--json", capsys=capsys)
    assert status == 0
    assert as_json(out)["removed"]
    assert all(variant["rows"] == 0 for variant in as_json(out)["variants"])
    assert json.loads(json.dumps(as_json(out)))
