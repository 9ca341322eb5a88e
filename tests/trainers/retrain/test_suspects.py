"""Changed rows that contradict what is live: every planted corruption is refused, no harmless change is."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from backbone.home import home
from backbone.records import decode
from tests.home import linked
from tests.tiny import make_tiny_backbone, rows, write_config, write_csv
from tests.trainers.retrain.corruptions import CORRUPTIONS, HARMLESS, Change
from tests.trainers.retrain.place import DEV, TABLE
from trainers.config.load import load_config
from trainers.config.retrain import Gate, RowChecks
from trainers.data.splits import membership
from trainers.retrain import suspects
from trainers.retrain.beforehand import count_checks, distance, misspelt, part, unjudgeable
from trainers.retrain.compare import Contestant
from trainers.retrain.fingerprint import read
from trainers.retrain.lineage import Check, GateReport
from trainers.retrain.rows import SplitRows
from trainers.retrain.suspects import familiar, label_checks, spelling_checks
from trainers.train import train

SHARE = 0.2  # share of the new rows that is spoiled


class Task:
    """A live graft on 900 rows, and 300 new rows of the same kind."""

    def __init__(self, folder: Path, backbone: Path):
        self.file = folder / "train.csv"
        table = list(dict.fromkeys(rows(1300, seed=1)))
        self.old, self.new = table[:900], table[900:1200]
        script = write_config(folder / "config.py", backbone, folder, adapter="Probe()")
        write_csv(self.file, self.old)
        self.config = load_config(script, ("data.dev_fraction=0.2", "data.gate_fraction=0.2"))
        self.before = read(self.config).rows
        self.live = Contestant(Path(train(self.config, folder / "run").graft), 1)

    def violations(self, change: Change, share: float = SHARE, limits: RowChecks | None = None) -> list[Check]:
        write_csv(self.file, change(self.old, self.new, random.Random(0), share))
        policy = replace(self.config.retrain, rows=limits or RowChecks())
        config, now = replace(self.config, retrain=policy), read(self.config).rows
        slips = misspelt(self.before, now, policy.rows.new_labels)
        checks = [*count_checks(policy.rows, self.before, now), *label_checks(config, self.live, now, self.before)]
        checks += spelling_checks(config, self.live, now, self.before, slips) if slips else ()
        return [check for check in checks if check.verdict == "FAIL"]


@pytest.fixture(scope="module")
def task(tmp_path_factory, tiny_path) -> Task:
    folder = tmp_path_factory.mktemp("suspects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPGRAFT_HOME", str(linked(folder / "home")))
        yield Task(folder, tiny_path)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_of_a_fifth_of_the_new_rows_is_refused(task, name):
    violations = task.violations(CORRUPTIONS[name])
    assert violations
    for check in violations:
        assert check.reason
        assert all(where.startswith(str(task.file)) for where in check.where)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_is_not_refused(task, name):
    assert not [(check.name, check.reason) for check in task.violations(HARMLESS[name])]


def test_the_rows_to_look_at_are_those_with_wrong_labels(task):
    (check,) = task.violations(CORRUPTIONS["labels at random"])
    right = dict(task.new)
    lines = task.file.read_text(encoding="utf-8").splitlines()
    named = [lines[int(where.rpartition(":")[2]) - 1].rsplit(",", 1) for where in check.where]
    assert len(named) == 10
    assert all(right[text] != label for text, label in named)


def test_a_limit_that_a_person_raised_is_kept(task):
    change = CORRUPTIONS["labels at random"]
    assert not task.violations(change, limits=RowChecks(max_disagreement=1.0))
    assert task.violations(change, limits=RowChecks(max_disagreement=0.1))


def some_rows(labels: list[int], first: int = 0) -> SplitRows:
    count = len(labels)
    texts = np.arange(first, first + count, dtype=np.uint64)
    return SplitRows(texts, np.array(labels, np.int32), ("a", "b", "c"), np.full(count, 9, np.int32))


@pytest.mark.parametrize(
    ("kept", "refused"),
    [
        (200, ["rows of label c"]),  # all of a and b stayed, and none of c
        (220, ["rows of label c"]),  # 80 % of c are gone
        (280, []),  # a fifth is gone
    ],
)
def test_a_label_whose_rows_are_gone_is_refused_and_one_that_shrank_is_not(kept, refused):
    before = some_rows([i // 100 for i in range(300)])
    after = {"train": part(before, np.arange(300) < kept)}
    limits = RowChecks(max_lost=1.0, max_label_lost=0.5)
    assert [c.name for c in count_checks(limits, {"train": before}, after) if c.verdict == "FAIL"] == refused
    everywhere = {"train": part(before, np.arange(300) % 5 == 0)}
    checks = count_checks(limits, {"train": before}, everywhere)
    assert [c.name for c in checks if c.verdict == "FAIL"] == [], "of every label as much is gone"


def test_a_row_is_familiar_if_it_lies_among_former_ones():
    draw = np.random.default_rng(0)
    former = draw.normal(size=(200, 8)).astype(np.float32) * [1, 1, 1, 1, 0, 0, 0, 0]
    other = draw.normal(size=(50, 8)).astype(np.float32) * [0, 0, 0, 0, 1, 1, 1, 1]
    same = former[:50] + 0.01 * draw.normal(size=(50, 8))
    rows_, is_former = np.concatenate([former, same, other]).astype(np.float32), np.arange(300) < 200
    alike = familiar(rows_, is_former)
    assert alike[200:250].all()
    assert not alike[250:].any()
    assert 0.9 < alike[:200].mean() < 1.0, "a row is no neighbour of itself"


def test_shuffled_labels_are_refused_before_training_and_the_verdict_stands(place):
    place.run()
    turn = {"class0": "class1", "class1": "class2", "class2": "class0"}
    place.data([(text, turn[label]) for text, label in TABLE])
    result = place.run()
    assert (result["exit"], result["verdict"], result["action"], result["live"]) == (10, "FAIL", "refused", 1)
    assert result["rows_computed"] == 0
    assert result["version"] is None
    report = decode(GateReport, result["gate"])
    wrong = next(check for check in report.checks if check.name == "labels of inputs that stayed")
    assert wrong.value == pytest.approx(1.0)
    assert wrong.where[0] in result["reason"]
    again = place.run()
    assert (again["exit"], again["action"], again["live"]) == (10, "nothing", 1)


@pytest.mark.parametrize(("texts", "status"), [("one text", 10), ("new texts", 0)])
def test_changed_rows_that_are_all_held_out_are_checked_too(place, texts, status):
    """Training would give the live version again, but the rows are what judges the next one."""
    gate = 0.3
    settings = (f"data.gate_fraction={gate}", "retrain.rows.min_rows=20")
    table = list(dict.fromkeys(rows(500, seed=1)))
    place.data(table[:300])
    assert place.run(*settings)["promoted"]
    held_out = [row for row in table[300:] if membership(row[0], DEV, gate) == "gate"]
    spoiled = [(held_out[0][0], label) for _, label in held_out]
    place.data(table[:300] + (spoiled if texts == "one text" else held_out))
    told = place.run(*settings, options=("--dry-run",))
    assert (told["exit"], told["action"], told["reason"]) == (
        0,
        "nothing",
        "only held-out rows changed; they would be checked",
    )
    checked = place.run(*settings)
    assert (checked["exit"], checked["live"], checked["version"]) == (status, 1, None)
    assert checked["verdict"] == ("FAIL" if status else "")
    again = place.run(*settings)
    assert (again["exit"], again["action"]) == (status, "nothing")
    assert again["reason"].startswith("nothing changed since the " + ("gate said FAIL" if status else "held-out rows"))


def test_programs_that_ask_the_live_version_are_kept_between_processes(place, monkeypatch):
    place.run()
    place.data(TABLE[:-60] + [(f"{text} ban", label) for text, label in TABLE[-60:]])
    jax.config.update("jax_compilation_cache_dir", None)  # as in a new process
    folders = []

    def noted(*given):
        folders.append(jax.config.jax_compilation_cache_dir)
        return label_checks(*given)

    monkeypatch.setattr(suspects, "label_checks", noted)
    place.run()
    assert folders == [str(home() / "programs")]


def test_what_cannot_be_judged_is_said_before_training(place):
    asked = place.run("retrain.gate.min_rows=1000")
    assert (asked["exit"], asked["verdict"], asked["action"]) == (11, "NO_EVIDENCE", "refused")
    assert "--no-promote" in asked["reason"]
    assert place.registry.versions("tiny", 10) == [], "nothing was trained"
    waiting = place.run("retrain.gate.min_rows=1000", options=("--no-promote",))
    assert waiting["version"] == 1, "a person may judge it"
    assert "no row is held out" in unjudgeable(Gate(), {})


def test_a_daily_limit_is_kept_however_often_it_refused(place):
    place.run("retrain.max_per_day=1")
    place.data(TABLE[:-1])
    registry = place.registry
    lease = registry.acquire("tiny", "nights", 60)
    for number in range(205):
        registry.start_run("tiny", f"night {number}", "nights", lease.token, {"trains": False})
        registry.finish_run("tiny", f"night {number}", "refused", {})
    registry.release(lease)
    result = place.run("retrain.max_per_day=1")
    assert (result["exit"], result["action"]) == (12, "refused")
    assert "1 trainings in 24 hours" in result["reason"]


def test_a_replaced_backbone_is_a_change_like_any_other(place, tiny_path, tmp_path):
    trunk = tmp_path / "trunk"
    shutil.copytree(tiny_path, trunk)
    place.run(f"backbone={trunk}")
    shutil.rmtree(trunk)
    make_tiny_backbone(trunk, seed=5)
    result = place.run(f"backbone={trunk}")
    assert (result["exit"], result["action"], result["verdict"]) == (11, "scratch", "NO_EVIDENCE")
    assert "promote the candidate by hand" in result["reason"]
    assert place.run(f"backbone={trunk}")["action"] == "nothing", "done once"


def named(old_label: str, new_label: str, count: int) -> Change:
    """A few rows of one label come under another name."""

    def change(old, new, draw, share):
        rows = [row for row in new if row[1] == old_label][:count]
        return [*old, *((text, new_label) for text, _ in rows)]

    return change


def test_a_misspelt_label_is_not_a_new_one(task):
    """Three rows are enough: other checks need fifty. A person's word lets it through, and so do rows unlike those."""
    (check,) = task.violations(named("class0", "clas0", 3))
    assert check.name == "spelling of label clas0"
    assert "spelt nearly as 'class0'" in check.reason
    assert len(check.where) == 3
    assert not task.violations(named("class0", "clas0", 3), limits=RowChecks(new_labels=("clas0",)))
    assert not task.violations(named("class2", "clas0", 3)), "its rows are not like those of class0"
    assert not task.violations(named("class0", "refund", 3)), "nor is its name"


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        ("kitten", "sitting", 3),
        ("abcd", "abdc", 1),
        ("abcd", "abcd", 0),
        ("abc", "abcd", 1),
        ("ca", "abc", 3),
        ("", "a", 1),
    ],
)
def test_the_distance_of_two_spellings(first, second, edits):
    """Optimal string alignment, by hand."""
    assert distance(first, second, 3) == distance(second, first, 3) == edits
    assert distance(first, second, 0) == min(edits, 1)


@pytest.mark.parametrize(
    ("new", "near"),
    [
        ("postive", "positive"),
        ("positvie", "positive"),
        ("Positive ", "positive"),
        ("card-arrival", "card_arrival"),
        ("exchange_rate_wronk", "exchange_rate_wrong"),
        ("exchnage_rat_wrong", "exchange_rate_wrong"),
        ("class7", None),
        ("negativ", None),  # of no label that is there
        ("no", None),
        ("yse", None),  # of three letters one is another word
        ("level 10", None),
    ],
)
def test_labels_that_are_spelt_nearly_as_a_former_one(new, near):
    former = ("positive", "card_arrival", "exchange_rate_wrong", "class1", "yes", "level 1")

    def rows_of(*names: str) -> dict[str, SplitRows]:
        count = len(names)
        return {
            "train": SplitRows(np.arange(count, dtype=np.uint64), np.arange(count), names, np.ones(count, np.int32))
        }

    expected = [(new, near)] if near else []
    assert misspelt(rows_of(*former), rows_of(*former, new), ()) == expected
    assert misspelt(rows_of(*former), rows_of(*former, new), (new,)) == []
