"""Levels from a measured table, the pieces it is measured by, and a controller that chooses among them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from adapters.artefact.exits import Exits
from adapters.artefact.write import save_graft
from adapters.graft import load_graft
from adapters.specs import Lora
from serving.bank import Envelope
from serving.controller import Bounds, Controller, Reading
from serving.ladder import Level, Option, hull, ladder
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.limits import Limits, Tokens
from serving.table import Table
from serving.timing import Timings, options_of, timed
from tests.grafts import EMPTY, make
from tests.serving.grafts import TEXTS, graft, held_up, with_exits
from tests.serving.test_controller import Clock
from tests.tiny import rows
from trainers.config.pruning import Pruning
from trainers.data.batches import Examples
from trainers.prune import pruned_graft


def drawn(seed: int) -> dict[str, tuple[Option, ...]]:
    """Three tasks with up to four options each; full loses nothing."""
    draw = np.random.default_rng(seed)
    tasks = {}
    for task in ("a", "b", "c"):
        cheap = [Option(f"s{n}", *draw.uniform((0.1, 0.0), (1.2, 0.1))) for n in range(draw.integers(0, 4))]
        tasks[task] = (Option("full", 1.0, 0.0), *cheap)
    return tasks


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_the_same_cost_loses_less(seed):
    """Against every combination of the options."""
    tasks, traffic = drawn(seed), {"a": 0.0, "b": 4.0, "c": 1.0}
    levels = ladder(tasks, traffic)
    weights = np.array([1.0, 5.0, 2.0]) / 8
    combinations = list(itertools.product(*tasks.values()))
    costs = np.array([weights @ [one.seconds for one in chosen] for chosen in combinations])
    lost = np.array([weights @ [one.lost for one in chosen] for chosen in combinations])
    for level in levels:
        assert not ((costs <= level.cost * costs[0] - 1e-12) & (lost < level.lost - 1e-12)).any(), level
        named = [
            next(o for o in options if o.submodel == level.submodels.get(t, "full")) for t, options in tasks.items()
        ]
        assert level.cost == pytest.approx(weights @ [one.seconds for one in named])
        assert level.lost == pytest.approx(weights @ [one.lost for one in named])
    assert [level.cost for level in levels] == sorted((level.cost for level in levels), reverse=True)
    assert levels[0] == Level("full", "full", {}, 1.0, 0.0)
    cheapest = sum(
        w * min(one.seconds for one in hull(options)) for w, options in zip(weights, tasks.values(), strict=True)
    )
    assert levels[-1].cost == pytest.approx(cheapest)


def test_an_option_that_saves_nothing_is_never_chosen():
    options = (Option("full", 1.0, 0.0), Option("exits", 1.1, 0.01))
    assert [level.name for level in ladder({"a": options})] == ["full"]
    free = (Option("full", 1.0, 0.0), Option("exits", 0.5, 0.0))
    assert hull(free) == list(free), "full quality comes first, also beside one that was never seen to lose"
    assert [level.lost for level in ladder({"a": free})] == [0.0, 0.0]


def test_early_exits_cost_what_their_shares_leave():
    """A group that begins at boundary 1 of 3, exits at 1 and 2: by hand."""

    class Bank:
        start = 1

    class Programs:
        stops, splits, needs, banks = (0, 1, 2, 3), [(2,)], [(1,)], [Bank()]

    timings = Timings(32, 8, 1.0, {0: 10.0, 1: 20.0, 2: 30.0}, (50.0,), {(0, 1): 22.0}, {0: 33.0}, 0.5)
    exits = Exits((1, 2), np.zeros((2, 4, 2)), np.zeros((2, 2)), 0.9, 0.05, 0.9, 200, 3, (0.25, 0.5))
    full, early = options_of(timings, Programs(), 0, exits)
    assert full == Option("full", 1.0 + 10.0 + 50.0, 0.0)
    assert early.seconds == pytest.approx(1.0 + 10.0 + 0.5 + 0.75 * 22.0 + 0.25 * 33.0)
    assert early.lost == pytest.approx(3 / 200)


LEVELS = tuple(Level(f"l{n}", "full", {"a": str(n)}, cost, 0.0) for n, cost in enumerate((1.0, 0.8, 0.6, 0.3)))


def moved(readings, dwell=10.0) -> list[str]:
    """The level after each reading, ten seconds apart."""
    clock, names = Clock(), []
    controller = Controller(("full", "exits"), Bounds(p95=0.1, dwell=dwell), clock)
    controller.take(LEVELS)
    for reading in readings:
        clock.now += 10
        controller.update(reading)
        names.append(controller.submodel)
    return names


def test_it_goes_as_far_as_the_reading_asks():
    assert moved([Reading(p95=0.11)]) == ["l1"], "a tenth over: a fifth cheaper is enough"
    assert moved([Reading(p95=0.15)]) == ["l2"]
    assert moved([Reading(p95=0.9)]) == ["l3"], "nothing is cheap enough: the cheapest"
    assert moved([Reading(p95=0.9), Reading(p95=0.0)]) == ["l3", "l0"], "nobody asks: full quality"
    # at 0.3 of the cost a p95 of 0.03; at 0.6 it would be 0.06, at 0.8 above the relief of 0.07
    assert moved([Reading(p95=0.9), Reading(p95=0.03)]) == ["l3", "l2"]
    assert moved([Reading(p95=0.9), Reading(p95=0.069)]) == ["l3", "l2"], "at least one level"
    assert moved([Reading(p95=0.9), Reading(p95=0.08)]) == ["l3", "l3"], "no relief"


def test_new_measurements_keep_the_level():
    controller = Controller(("full", "exits"), Bounds(p95=0.1, dwell=1e-9), Clock())
    controller.update(Reading(p95=1.0))
    controller._since -= 1
    controller.update(Reading(p95=1.0))
    assert controller.submodel == "exits", "levels that were not measured"
    controller.take(LEVELS)
    assert controller.submodel == "l3"
    other = tuple(Level(f"m{n}", "full", {"b": str(n)}, cost, 0.0) for n, cost in enumerate((1.0, 0.5, 0.35)))
    controller.take(other)
    assert controller.submodel == "m2"
    controller.take(LEVELS[:1])
    assert controller.submodel == "l0"


@pytest.fixture(scope="module")
def runtime(tiny):
    """Two grafts with exits, which lose a tenth and a fiftieth, and one without."""
    spec = Lora(rank=2, blocks="2:")
    grafts = {name: graft(tiny, spec, seed=seed) for seed, name in enumerate(("dear", "cheap", "none"), 1)}
    for name, losses in (("dear", 10), ("cheap", 2)):
        one = with_exits(grafts[name], 5)
        grafts[name] = replace(one, exits=replace(one.exits, rows=100, losses=losses, left=(0.5, 0.4)))
    envelope = Envelope.around([one.model for one in grafts.values()], labels=3, slots=3, exits=(1, 2))
    with Runtime(tiny, envelope, buckets=(24, 32), batch_sizes=(1, 12), max_wait=0.0) as runtime:
        for name, one in grafts.items():
            runtime.load(name, one)
        yield runtime


def test_every_piece_is_timed(runtime):
    timings = runtime.call(lambda: timed(runtime.programs)).result(60)
    assert (timings.bucket, timings.rows) == (32, 12)
    pieces = [timings.embed, *timings.blocks.values(), *timings.suffix, timings.pool]
    assert min(pieces) > 0
    assert sorted(timings.blocks) == [0, 1, 2]


def test_a_burst_degrades_the_task_that_loses_least(runtime, tiny, tmp_path, monkeypatch):
    """A queue that is really full: the table says what answers, answers say so, and what was given up is counted."""
    table = Table(runtime, ("full", "exits"))
    full = table.timings.embed + table.timings.blocks[0] + table.timings.blocks[1] + table.timings.suffix[0]
    assert table.options("none") == (Option("full", pytest.approx(full), 0.0),)
    assert table.options("absent") == ()
    # whatever this machine's noise: exits save a third
    fixed = {
        task: (Option("full", 3.0, 0.0), Option("exits", 2.0, lost)) for task, lost in (("dear", 0.1), ("cheap", 0.02))
    }
    fixed["none"] = (Option("full", 3.0, 0.0),)
    monkeypatch.setattr(table, "options", lambda task: fixed.get(task, ()))
    controller = Controller(("full", "exits"), Bounds(max_queued=20, dwell=1e-9))
    make(tmp_path / "stored", tiny)  # a catalogue is never empty
    server = Server(runtime, Follower(runtime, FolderCatalogue(tmp_path)), Limits(), Tokens(), controller, table=table)
    server.control(server.metrics.sample())
    assert controller.submodel == "full"
    gate = held_up(runtime)
    try:
        rows = [("none", text) for text in TEXTS for _ in range(2)][:21]
        waiting = runtime.submit(rows)
        server.control(server.metrics.sample())
    finally:
        gate.set()
    assert controller.submodel == "exits in 1 of 3 tasks"
    assert controller.switches[0].why == "queued rows 21 above 20"
    assert {task: runtime.submodel_of(task) for task in ("dear", "cheap", "none")} == {
        "dear": "full", "cheap": "exits", "none": "full",
    }  # fmt: skip
    for pending in waiting:
        pending.answer(60)
    before = dict(runtime.given_up)
    answers = runtime.predict([(task, text) for task in ("dear", "cheap") for text in TEXTS])
    assert {answer.submodel for answer in answers[: len(TEXTS)]} == {"full"}
    assert {answer.submodel for answer in answers[len(TEXTS) :]} == {"exit:1", "exit:2", "full"}
    assert runtime.given_up["cheap"] - before.get("cheap", 0.0) == pytest.approx(0.02 * len(TEXTS))
    assert runtime.given_up.get("dear", 0.0) == before.get("dear", 0.0)
    assert server.metrics.stats().given_up["cheap"] > 0
    assert server.metrics.stats().submodel == "exits in 1 of 3 tasks"
    server.control(Reading(queued=0))
    assert controller.submodel == "full"
    assert runtime.submodel_of("cheap") == "full"


@pytest.fixture(scope="module")
def pruned_pair(tiny, tmp_path_factory):
    """A folder of a graft and of the one that was pruned from it, both scored on one split."""
    folder = tmp_path_factory.mktemp("pair")
    one = graft(tiny, Lora(rank=2, alpha=4.0, blocks="1:"), seed=3)
    texts = [text for text, _ in rows(64)]
    examples = Examples(tiny.preprocessing.encode(texts, 48), np.arange(64, dtype=np.int32) % 3, tiny.lengths)
    small = pruned_graft(one, Pruning(above=1, flops=0.5), examples)
    scored = replace(EMPTY, metrics={"dev": {"accuracy": 0.9, "macro_f1": 0.8}})
    parent = save_graft(folder / "whole", one.model, one.params, tiny, name="whole", max_tokens=48, training=scored)
    less = replace(EMPTY, metrics={"dev": {"accuracy": 0.87}}, config={"pruned_from": parent.content_id})
    save_graft(folder / "small", small.model, small.params, tiny, name="small", max_tokens=48, training=less)
    return folder


def test_a_pruned_graft_stands_in_for_its_whole(tiny, pruned_pair):
    models = [load_graft(pruned_pair / name, tiny).model for name in ("whole", "small")]
    envelope = Envelope.around(models, labels=3, slots=2)
    with Runtime(tiny, envelope, buckets=(48,), batch_sizes=(12,), max_wait=0.0) as runtime:
        for name in ("whole", "small"):
            runtime.load(name, pruned_pair / name, version=f"of {name}")
        table = Table(runtime, ("full", "pruned"))
        runtime.standins = table.standins()
        assert runtime.standins["whole"].lost == pytest.approx(0.03)
        assert list(runtime.standins) == ["whole"]
        full, pruned = table.options("whole")
        assert (full.submodel, pruned.submodel, pruned.lost) == ("full", "pruned", pytest.approx(0.03))
        assert pruned.seconds == table.options("small")[0].seconds
        assert Table(runtime, ("full",)).standins() == {}
        whole, small = (runtime.predict([(name, text) for text in TEXTS]) for name in ("whole", "small"))
        runtime.submodels = {"whole": "pruned"}
        answers = runtime.predict([("whole", text) for text in TEXTS])
        assert {(a.task, a.version, a.submodel) for a in answers} == {("whole", "of whole", "pruned")}
        assert {a.content_id for a in answers} == {a.content_id for a in small}
        for given, expected, other in zip(answers, small, whole, strict=True):
            assert given.probabilities == pytest.approx(expected.probabilities, rel=1e-5)
            assert other.submodel == "full"
        assert any(
            a.probabilities != pytest.approx(b.probabilities, rel=1e-3) for a, b in zip(answers, whole, strict=True)
        )
        assert runtime.given_up["whole"] == pytest.approx(0.03 * len(TEXTS))
        assert runtime.answered_by["pruned"] == len(TEXTS)
        runtime.load("whole", pruned_pair / "small")  # another version is live: the stand-in was not made from it
        runtime.standins = table.standins()
        assert runtime.standins == {}
        assert {a.submodel for a in runtime.predict([("whole", TEXTS[0])])} == {"full"}
