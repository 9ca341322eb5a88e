"""The verb `retrain` on a tiny task, with a real registry: every exit status, every step killed, jax-free when idle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import topgraft
from adapters.artefact.read import read_graft
from adapters.graft import load_graft
from backbone.records import decode
from backbone.storage import Backbone
from metering.window import cpu_seconds
from registry.entries import LeaseHeld
from registry.store import Store
from tests.tiny import as_json, rows
from tests.trainers.retrain.place import DEV, ROOT, TABLE
from trainers.config.load import load_config
from trainers.data.splits import membership
from trainers.retrain.fingerprint import take
from trainers.retrain.fleet import Outcomes


def in_train(text: str) -> bool:
    return membership(text, DEV, 0.0) == "train"


def test_the_first_run_promotes_and_the_second_does_nothing_without_jax(place):
    first = place.run()
    assert (first["exit"], first["action"], first["promoted"], first["live"]) == (0, "scratch", True, 1)
    assert first["rows_computed"] == len(set(TABLE)) == 240
    version = place.registry.version("tiny", 1)
    assert version.lineage["gate"]["verdict"] == "PASS"
    assert version.lineage["measured"]["cpu_seconds"] > 0
    measured = {m.name: m.quality for m in place.registry.measurements("tiny", 1)}
    assert measured["retraining, CPU seconds"] == "measured_counter"

    os.utime(place.folder / "train.csv", (1, 1))  # times of files mean nothing
    script = """
import os, sys, topgraft
status, spent = topgraft.main(sys.argv[1:]), os.times()
heavy = [name for name in ("jax", "flax", "grain", "tensorflow_datasets") if name in sys.modules]
print(status, ",".join(heavy) or "none", spent.user + spent.system, file=sys.stderr)
"""
    words = ["retrain", str(place.config), *place.overrides(), "--registry", place.url, "--store", str(place.store)]
    command = [sys.executable, "-c", script, *words, "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert as_json(done.stdout)["action"] == "nothing"
    status, modules, seconds = done.stderr.strip().splitlines()[-1].split()
    assert (status, modules) == ("0", "none")
    assert float(seconds) < 2, "CPU seconds: the machine may be busy with other things"

    place.data([(text, label) for text, label in TABLE[::-1]])
    assert place.run()["action"] == "nothing", "another order of the same rows is no change"


def test_ten_thousand_rows_are_hashed_within_the_time_of_a_run_that_does_nothing(place):
    place.data([(f"{text} {i}", label) for i, (text, label) in enumerate(rows(10_000, seed=4))])
    config = load_config(place.config)
    begun = time.process_time()
    taken = take(config, None)
    assert time.process_time() - begun < 1.5
    assert sum(len(split) for split in taken.rows.values()) == 10_080
    assert take(config, taken.fingerprint).rows is None, "the same bytes are not read again"


def test_relabelled_added_and_removed_rows(place):
    place.run()
    table = [(text, "class1" if i < 3 else label) for i, (text, label) in enumerate(TABLE[5:])] + rows(7, seed=77)
    wrong = sum(label != "class1" for _, label in TABLE[5:8])
    place.data(table)
    result = place.run()
    told = dict.fromkeys(("added", "removed", "relabelled"), 0)
    for split in ("train", "dev"):
        for key, count in result["changes"]["changes"][split].items():
            told[key] += count
    assert told == {"added": 7, "removed": 5, "relabelled": wrong}
    assert result["action"] == "head"
    assert result["rows_computed"] == 7, "only new rows are computed"
    assert (result["live"], result["version"]) == (2, 2)
    assert place.registry.version("tiny", 2).parent == 1

    topgraft.main(
        ["registry", "rollback", "tiny", "--registry", place.url, "--store", str(place.store), "--reason", "x"]
    )
    place._capsys.readouterr()
    again = place.run()
    assert (again["action"], again["live"]) == ("nothing", 1)
    assert "version 2, made from what there is now, was replaced by hand" in again["reason"]


def test_a_champion_with_an_adapter_grows_a_label_and_keeps_its_rows(place, tiny: Backbone):
    settings = ("adapter.method=lora", "plan.stages=top(1)", "epochs=2", "optimizer.learning_rate=5e-3")
    first = place.run(*settings)
    assert (first["action"], first["exit"]) == ("scratch", 0)
    # a fourth class beside the three, in a tenth of the rows
    extra = [(text, "class9") for text, label in rows(60, classes=6, seed=9) if label == "class5"]
    place.data(TABLE + extra)
    result = place.run(*settings)
    assert (result["action"], result["exit"]) == ("warm", 0), result["reason"]
    assert result["changes"]["labels_added"] == ["class9"]
    store = Store(place.store)
    old, new = (load_graft(store.path(place.registry.version("tiny", n).content_id), tiny) for n in (1, 2))
    assert new.model.labels == ("class0", "class1", "class2", "class9")
    assert new.model.methods == old.model.methods
    text, label = next(row for row in TABLE if row[1] == "class0")
    assert new.predict([text])[0].label == label
    assert result["rows_computed"] <= 2 * len(extra) + len(extra), "new rows at the boundary, and those of the probe"

    # few changed rows and no new label: the adapter stays, bit for bit, and the head is fitted anew
    place.data(TABLE + extra + rows(5, seed=78))
    head = place.run(*settings)
    assert (head["action"], head["exit"]) == ("head", 0), head["reason"]
    kept = [read_graft(store.path(place.registry.version("tiny", n).content_id))[1] for n in (2, 3)]
    for name, leaf in _leaves(kept[0]["adapter"]).items():
        np.testing.assert_array_equal(leaf, _leaves(kept[1]["adapter"])[name])
    assert not np.array_equal(kept[0]["head"]["kernel"], kept[1]["head"]["kernel"])


def _leaves(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_a_candidate_that_fails_leaves_the_champion_and_the_verdict_stands(place):
    place.run()
    turn = {"class0": "class1", "class1": "class2", "class2": "class0"}
    place.data([(text, turn[label] if in_train(text) else label) for text, label in TABLE])
    unchecked = "retrain.rows.max_relabelled=1"
    result = place.run(unchecked)
    assert (result["exit"], result["verdict"], result["promoted"], result["live"]) == (10, "FAIL", False, 1)
    assert "against the champion" in result["reason"]
    again = place.run(unchecked)
    assert (again["exit"], again["action"], again["live"]) == (10, "nothing", 1), "judged, not trained again"
    loose = ("retrain.gate.tolerance=1", "retrain.gate.forgetting=1", "retrain.gate.label_drop=1")
    looser = place.run(unchecked, *loose, "retrain.gate.first=bounds", 'retrain.gate.bounds=[{"at_least": 0.01}]')
    assert (looser["exit"], looser["action"], looser["version"]) == (0, "adopt", result["version"])
    assert place.live() == result["version"]
    assert [p.verdict for p in place.registry.promotions("tiny")] == ["PASS", "PASS"]


def test_a_verdict_is_repeated_with_its_reason_until_gate_rows_come(place):
    """Held-out rows are no part of what is trained, and all of what is judged."""
    gate = 0.3
    settings = (f"data.gate_fraction={gate}", "retrain.rows.max_relabelled=1")
    assert place.run(*settings)["promoted"]
    turn = {"class0": "class1", "class1": "class2", "class2": "class0"}
    sides = {text: membership(text, DEV, gate) for text, _ in TABLE}
    table = [(text, turn[label] if sides[text] == "train" else label) for text, label in TABLE]
    place.data(table)
    failed = place.run(*settings)
    assert (failed["exit"], failed["version"]) == (10, 2)
    again = place.run(*settings)
    assert (again["exit"], again["action"]) == (10, "nothing")
    assert again["reason"] == f"nothing changed since the gate said FAIL: {failed['reason']}"
    more = [row for row in rows(60, seed=9) if membership(row[0], DEV, gate) == "gate" and row[0] not in sides]
    place.data(table + more[:3])
    judged = place.run(*settings)
    assert (judged["exit"], judged["action"], judged["version"], judged["rows_computed"]) == (10, "adopt", 2, 0)
    assert judged["gate"]["rows"]["all rows"] == failed["gate"]["rows"]["all rows"] + 3
    assert place.run(*settings)["action"] == "nothing"


def test_too_few_held_out_rows_are_no_evidence(place):
    result = place.run("retrain.gate.min_rows=1000")
    assert (result["exit"], result["verdict"], result["live"]) == (11, "NO_EVIDENCE", None)
    assert "gate.min_rows asks for 1000" in result["reason"]
    result = place.run("data.dev_fraction=0")
    assert (result["exit"], result["verdict"]) == (11, "NO_EVIDENCE")
    assert "no row is held out" in result["reason"]
    budget = place.run("target.max_joules=1", "retrain.gate.min_rows=20")
    check = next(c for c in budget["gate"]["checks"] if c["name"] == "target.max_joules")
    assert check["verdict"] in ("NO_EVIDENCE", "PASS", "FAIL")
    assert (check["found"] is None) == (check["verdict"] == "NO_EVIDENCE"), "what was not measured is never a pass"


def test_without_promotion_the_candidate_waits(place):
    result = place.run(options=("--no-promote",))
    assert (result["exit"], result["verdict"], result["promoted"], result["live"]) == (0, "PASS", False, None)
    result = place.run()
    assert (result["action"], result["promoted"], result["live"], result["rows_computed"]) == ("adopt", True, 1, 0)


def test_prices_and_policies_refuse(place):
    dear = place.run(options=("--max-price", "0.0001"))
    assert (dear["exit"], dear["action"], dear["live"]) == (12, "refused", None)
    assert "CPU seconds, --max-price is 0.0001 (the plan" in dear["reason"]
    so_far = cpu_seconds()
    dry = place.run(options=("--dry-run",))
    assert (dry["exit"], dry["action"], dry["live"]) == (0, "scratch", None)
    assert dry["predicted"]["cpu_seconds"] > so_far, "the start of the process is part of what a retraining takes"
    assert not place.registry.versions("tiny")
    assert place.run()["live"] == 1
    place.data([*TABLE, *rows(1, seed=5)])
    few = place.run("retrain.min_changed=2")
    assert (few["exit"], few["reason"]) == (12, "1 rows changed, retrain.min_changed is 2")
    often = place.run("retrain.max_per_day=1")
    assert (often["exit"], often["action"]) == (12, "refused")
    assert "1 trainings in 24 hours, retrain.max_per_day is 1" in often["reason"]
    place.run()
    place.data([*TABLE, *rows(2, seed=5)])
    dear = place.run(options=("--max-price", "0.0001"))
    assert "1 earlier runs of kind head" in dear["reason"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("retrain.schema.labels=class0,class1,klass2", "label 'class2', which is not allowed; nearest: klass2"),
        ("retrain.schema.min_rows=1000", "1000 train rows are asked for, the data hold"),
        ("retrain.schema.min_rows_per_label=100", "100 train rows of a label are asked for, 'class0' has"),
        ('retrain.schema.columns=[{"name": "txet"}]', "train.csv:2: has no column 'txet' of the schema; nearest: text"),
        ('retrain.schema.columns=[{"name": "text", "max": 30.0}]', "characters, the schema asks for at most 30"),
        ('retrain.schema.columns=[{"name": "label", "kind": "integer"}]', "is not what the schema asks for: integer"),
        ("data.label=lable", "has no column 'lable'"),
        ("retrain.gate.min_rows=1", "retrain.gate.min_rows: must be at least 2"),
    ],
)
def test_bad_data_and_configs_stop_with_two(setting, message, place):
    result = place.run(setting)
    assert (result["exit"], result["action"]) == (2, "error")
    assert message in result["reason"]


def test_a_lease_that_is_held(place):
    registry = place.registry
    lease = registry.acquire("tiny", "somebody", 60.0)
    result = place.run()
    assert result["exit"] == 75
    assert "leased by somebody" in result["reason"]
    registry.release(lease)
    assert place.run()["exit"] == 0


def test_an_artefact_altered_after_publication_is_not_built_upon(place):
    place.run()
    live = place.registry.live("tiny")
    file = Store(place.store).path(live.content_id) / "graft.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    place.data(TABLE + rows(3, seed=5))
    result = place.run()
    assert (result["exit"], place.live()) == (2, 1)
    assert "altered" in result["reason"]


def test_all_gives_an_entry_a_task_and_the_worst_status(place, capsys, monkeypatch):
    """Files that are no task are skipped; those that cannot be read are errors of their own; the rest runs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place.run()
    files = {
        "__init__.py": '"""Experiments."""\n',
        "template.py": "from trainers.config import TrainConfig\nget_config = TrainConfig\n",
        "broken.py": "raise ValueError('no')\n",
        "ends.py": "import os\nos._exit(0)\n",
        "elsewhere.py": place.config.read_text().replace("train.csv", "gone.csv").replace("'tiny'", "'elsewhere'"),
    }
    for name, text in files.items():
        (place.folder / name).write_text(text)
    configs = [str(place.folder / name) for name in (*files, place.config.name)]
    words = ["retrain", *configs, *place.overrides()]
    status = topgraft.main([*words, "--registry", place.url, "--store", str(place.store), "--all", "--json"])
    result = as_json(capsys.readouterr().out)
    assert status == result["exit"] == 2
    entries = {task["task"]: (task["action"], task["exit"]) for task in result["tasks"]}
    skipped, error = ("skipped", 0), ("error", 2)
    assert entries == {
        "__init__": skipped, "template": skipped, "broken": error, "ends": error, "elsewhere": error,
        "tiny": ("nothing", 0),
    }  # fmt: skip
    lines = decode(Outcomes, result).table().splitlines()
    assert [line.split()[:3] for line in lines[:-1]] == [[t, a, str(e)] for t, (a, e) in entries.items()]
    assert lines[-1] == "status 2, the worst of 6"
    reasons = " ".join(task["reason"] for task in result["tasks"])
    for reason in ("defines no function get_config()", "names no file", "broken.py:1", "ended its process", "gone.csv"):
        assert reason in reasons, reason
    status = topgraft.main([*words, "--json"])
    assert status == 2
    assert "several configs need --all" in capsys.readouterr().err


def test_all_refuses_two_configs_of_one_task_and_configs_without_any(place, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (place.folder / "copy.py").write_text(place.config.read_text())
    (place.folder / "helpers.py").write_text("")
    where = ["--registry", place.url, "--store", str(place.store), "--all", "--json"]
    for names, reason in (
        (("config.py", "copy.py"), "config.py and .*copy.py are both the task 'tiny'"),
        (("helpers.py",), "nothing to retrain: .*helpers.py: defines no function"),
    ):
        status = topgraft.main(["retrain", *(str(place.folder / name) for name in names), *where])
        assert status == 2
        assert re.search(reason, as_json(capsys.readouterr().out)["error"])
    assert not (place.folder / "registry.db").exists()


def test_a_retraining_that_is_refused_makes_no_registry(place):
    result = place.run("data.train=gone.csv")
    assert (result["exit"], "gone.csv" in result["reason"]) == (2, True)
    assert not (place.folder / "registry.db").exists()
    assert not place.store.exists()
    assert place.run()["promoted"]


def test_killed_before_every_step_the_next_run_goes_on_and_the_live_version_is_old_or_new(place, tiny):
    """A chain: each process is killed one step later than the one before, and the next one goes on from there."""
    place.run()
    place.data(TABLE + rows(20, seed=6))
    for step in ("fingerprint", "diagnose", "decide", "train", "gate", "publish", "promote", "done"):
        child = place.child(step, signal.SIGKILL)
        child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, step
        live = place.registry.live("tiny")
        assert live is not None
        assert live.version == (2 if step == "done" else 1), step
        load_graft(Store(place.store).path(live.content_id), tiny)
    end = place.run(options=("--wait", "60"))
    assert (end["exit"], end["action"], end["live"]) == (0, "nothing", 2)
    assert [v.number for v in place.registry.versions("tiny")] == [2, 1], "nothing was published twice"
    log = [(p.generation, p.from_version, p.to_version) for p in place.registry.promotions("tiny")]
    assert log == [(1, None, 1), (2, 1, 2)]
    told = [run.outcome for run in place.registry.runs("tiny")]
    assert told == ["promoted", None, None, None, None, "promoted"], "those killed once they had begun never ended"


def test_stopped_for_longer_than_its_lease_a_run_writes_nothing(place):
    child = place.child("publish", signal.SIGSTOP)
    try:
        assert os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_status == signal.SIGSTOP
        registry, deadline = place.registry, time.monotonic() + 60
        while True:
            try:
                registry.acquire("tiny", "another", 600.0)
                break
            except LeaseHeld:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGCONT)
    out, _ = child.communicate(timeout=300)
    assert as_json(out)["exit"] == 75
    assert place.registry.versions("tiny") == []
    assert place.live() is None


def test_a_probe_of_every_boundary_is_priced_and_retrained(place):
    settings = ("adapter.boundaries=",)
    place.run(*settings)
    place.data(TABLE + rows(7, seed=77))
    dear = place.run(*settings, options=("--max-price", "0.0001"))
    assert dear["exit"] == 12, dear["reason"]
    assert dear["predicted"]["cpu_seconds"] > 0
    done = place.run(*settings)
    assert (done["action"], done["rows_computed"], done["live"]) == ("head", 7, 2)
