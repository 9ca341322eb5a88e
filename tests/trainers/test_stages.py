"""Freeze plans: which blocks when, what is exact, what a stage saves, and what a kill leaves."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import backbone.cache as cache_module
from adapters.costs import train_step
from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Ladder, Lora
from backbone.cache import stored_bytes
from backbone.errors import InputError
from backbone.files import sha256_file
from backbone.home import home
from backbone.records import encode
from backbone.trees import flatten, map_leaves, unflatten
from tests.command import call, killed_run, run, same, tensors
from tests.tiny import as_json
from tests.trainers.training import apart, assert_same, compiles, trained
from trainers.config import Optimizer, Plan, Stage
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries, CachedPrefix, prefix_id
from trainers.fitting.progress import Progress, progress_of
from trainers.fitting.step import first_state, partition
from trainers.fitting.task import GraftTask
from trainers.freezing.gradient_ratio import GradientRatio
from trainers.freezing.schedule import RunShape
from trainers.runs.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
ENDS = (10, 20, 30, 40)  # batches at the end of each epoch


def resolved(stages, blocks=6, accumulate=1):
    return [(s.boundary, s.until) for s in Plan(stages=stages).schedule.spans(RunShape(blocks, ENDS, 4.0, accumulate))]


def test_schedules_by_name():
    assert resolved("all") == [(0, 40)]
    assert resolved("top(2)") == [(4, 40)]
    assert resolved("geometric(0.5)") == [(0, 10), (3, 20), (5, 40)], "ceil(6 (1 - 0.5^e)) = 0, 3, 5, 6 -> at most 5"
    assert resolved("geometric(0.3)") == [(0, 10), (2, 20), (4, 40)], "ceil(6 (1 - 0.7^e)) = 0, 2, 4, 4"
    assert resolved("gradient_ratio") == [(0, 10), (None, 20), (None, 30), (None, 40)]


def test_explicit_stages_end_on_optimiser_steps():
    stages = (Stage("", until_epoch=0.55), Stage("3:", until_step=9), Stage("none"))
    assert resolved(stages, accumulate=2) == [(0, 6), (3, 18), (6, 40)]
    assert resolved((Stage("4:", until_epoch=1), Stage("-1:", until_epoch=2.5))) == [(4, 10), (5, 40)]


def test_stages_of_a_last_epoch_that_is_a_part():
    """Half an epoch of 100 batches, and two and a half."""

    def until(epochs, ends, *stages):
        return [span.until for span in Plan(stages=stages).schedule.spans(RunShape(6, ends, epochs, 1))]

    assert until(0.5, (50,), Stage("", until_epoch=0.25), Stage("none")) == [25, 50]
    assert until(2.5, (100, 200, 250), Stage("", until_epoch=2.25), Stage("none")) == [225, 250]
    assert until(2.5, (100, 200, 250), Stage("", until_epoch=2.5), Stage("none")) == [250], "there is no more to train"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("top(0)", "must be a whole number in 1..6"),
        ("top(7)", "must be a whole number in 1..6"),
        ("geometric(1)", "must lie between 0 and 1"),
        ((Stage("", until_epoch=2), Stage("3:", until_epoch=1)), r"stages\[1\]: ends .* before it begins"),
        ((Stage("", until_epoch=9), Stage("3:", until_epoch=0.1), Stage("4:")), r"stages\[1\]: ends at micro-batch 1,"),
        ((Stage("", until_epoch=1), Stage("9:")), r"plan.stages\[1\].blocks: '9:' selects none"),
        ((Stage(""), Stage("3:")), r"stages\[0\]: has no end, but a stage follows"),
        ((Stage("9:"),), "selects none of the 6 blocks"),
    ],
)
def test_plans_that_fit_no_run(stages, message):
    with pytest.raises(InputError, match=message):
        resolved(stages)


@pytest.mark.parametrize("stages", ["top", "top(x)", "geometric", "every", "all(3)", ()])
def test_plans_that_are_none(stages):
    with pytest.raises(InputError, match="stages:"):
        Plan(stages=stages)


def test_a_gap_below_a_live_block_is_refused():
    with pytest.raises(InputError, match="a gap below a live block saves nothing"):
        Stage("2:4")


def test_the_gradient_rule():
    assert GradientRatio().decide([1, 1, 1, 1], [0.99, 0.5, 0.2, 0.4], 0) == 2, "the first two have settled"
    assert GradientRatio().decide([1, 1, 1, 1], [0.99, 0.98, 0.2, 0.4], 2) == 4
    assert GradientRatio().decide([1, 1], [1, 1], 4) == 4, "nothing tells them apart"


def test_stages_that_are_all_live_equal_plain_training_bit_for_bit(task, tmp_path):
    """A stage that ends in mid-epoch, where the next has the same boundary, changes nothing."""
    plain, _ = trained(task, tmp_path / "a")
    stages = (Stage("", until_step=3), Stage("", until_epoch=1.5), Stage(""))
    staged, progress = trained(task, tmp_path / "b", stages=stages)
    assert len(progress.stages) == 3
    assert_same(plain, staged)


def step_after_step(task: GraftTask, boundaries: Callable[[int], int], folder: Path) -> dict:
    """Parameters after one call of the step for each batch; batch `n` starts from the states at `boundaries(n)`."""
    store = Boundaries(task.model, task.backbone, {}, folder, "float32", 2**30)
    store.fill([task.train], (1, 2))
    live, frozen = partition(map_leaves(np.asarray, task.model.init(jax.random.key(0))), lambda path: True)
    optimizer, order = task.optimizer(), task.order
    step, arrays, fixed = task.make_step(optimizer), first_state(live, optimizer), task.fixed(frozen)
    for number in range(order.ends[-1]):
        epoch, place = order.place(number)
        boundary = boundaries(number)
        states = CachedPrefix(store, boundary).states if boundary else None
        arrays = step(arrays, fixed, task.train.gather(*order.epoch(epoch)[place], order.batch_size, states))
    return flatten(map_leaves(np.asarray, arrays["live"]))


def test_another_boundary_in_mid_run_changes_no_bit_where_the_live_tree_stays(task, tmp_path):
    """Blocks 0 and 1 have no adapters: at boundaries 0, 1 and 2 the same leaves are live, in other programs."""
    model = GraftModel(task.backbone.network, (Lora(rank=2, blocks="2:"),), Classification(), task.model.labels)
    top = replace(task, model=model)
    stages = (Stage("", until_step=3), Stage("1:", until_epoch=1.5), Stage("2:"))
    plain, _ = trained(top, tmp_path / "plain")
    with jax.log_compiles(), compiles() as programs:
        cached, progress = trained(top, tmp_path / "cached", stages=stages)
    assert [(stage.boundary, stage.cached) for stage in progress.stages] == [(0, False), (1, True), (2, True)]
    assert programs.count("step") == 3 * len(np.unique(task.train.buckets)), "each boundary has programs of its own"
    ends = [stage.until for stage in progress.stages]
    assert_same(cached, step_after_step(top, lambda number: sum(number >= end for end in ends), tmp_path / "by hand"))
    assert apart(plain, cached) < 1e-6, "a program of its own rounds in its own way"
    running, _ = trained(top, tmp_path / "running", "none", stages=stages)
    assert_same(plain, running)
    head_alone, _ = trained(top, tmp_path / "head", stages=(Stage("", until_step=3), Stage("none")))
    assert apart(plain, head_alone) > 1e-3, "a boundary above the adapters does change them"


@pytest.mark.parametrize("schedule", ["geometric(0.5)", "top(1)"])
def test_a_cached_prefix_equals_one_that_runs(schedule, task, tmp_path):
    """The frozen prefix holds trained adapters; cached states are those of the running prefix."""
    ran, _ = trained(task, tmp_path / "a", "none", stages=schedule)
    cached, progress = trained(task, tmp_path / "b", stages=schedule)
    for path in ran:
        np.testing.assert_allclose(cached[path], ran[path], atol=2e-5, err_msg=path)
    assert progress.stages[-1].boundary == 2
    bottom = {path: leaf for path, leaf in cached.items() if ".lora.0." in path and path.endswith("b")}
    assert bottom
    assert all(np.any(leaf) for leaf in bottom.values()) == (schedule != "top(1)"), "frozen means as it was"


class AdamWByHand:
    """AdamW with accumulation, warm-up and linear decay, in NumPy.

    Source: Loshchilov and Hutter 2019, algorithm 2, with decay of matrices alone.
    """

    def __init__(self, params: dict, settings: Optimizer, steps: int):
        self.params = {path: np.array(leaf, np.float64) for path, leaf in params.items()}
        self.settings, self.warmup, self.steps = settings, round(settings.warmup_fraction * steps), steps
        self.seen, self.sum = 0, dict.fromkeys(params, 0.0)
        self.reset_moments()
        self.reset_schedule()

    def reset_moments(self) -> None:
        self.number, self.m, self.v = 0, dict.fromkeys(self.params, 0.0), dict.fromkeys(self.params, 0.0)

    def reset_schedule(self) -> None:
        self.updates = 0

    def rate(self) -> float:
        if self.updates < self.warmup:
            return self.settings.learning_rate * self.updates / self.warmup
        return self.settings.learning_rate * (1 - (self.updates - self.warmup) / (self.steps - self.warmup))

    def step(self, gradient: dict) -> None:
        """Adds the gradient of a micro-batch; updates the leaves that it names when an optimiser step is full."""
        self.seen += 1
        for path, leaf in gradient.items():
            self.sum[path] = self.sum[path] + np.asarray(leaf, np.float64)
        if self.seen % self.settings.accumulate:
            return
        rate, self.number, self.updates = self.rate(), self.number + 1, self.updates + 1
        for path in gradient:
            g, self.sum[path] = self.sum[path] / self.settings.accumulate, 0.0
            self.m[path] = 0.9 * self.m[path] + 0.1 * g
            self.v[path] = 0.999 * self.v[path] + 0.001 * g**2
            m, v = self.m[path] / (1 - 0.9**self.number), self.v[path] / (1 - 0.999**self.number)
            decay = self.settings.weight_decay * self.params[path] if self.params[path].ndim >= 2 else 0.0
            self.params[path] = self.params[path] - rate * (m / (np.sqrt(v) + 1e-8) + decay)


def by_hand(task: GraftTask, end: int, *resets: str) -> dict:
    """Parameters of a run that freezes block 0 after `end` micro-batches; `resets` begin anew there."""
    model, order = task.model, task.order
    optimizer = AdamWByHand(
        flatten(model.init(jax.random.key(0))),
        task.config.optimizer,
        -(-order.ends[-1] // task.config.optimizer.accumulate),
    )

    @jax.jit
    def gradient(leaves, batch):
        def loss(leaves):
            logits = model.logits(task.backbone.params, unflatten(leaves), {n: batch[n] for n in ("ids", "mask")})
            losses = -jax.nn.log_softmax(logits)[np.arange(len(logits)), batch["labels"]]
            return (losses * batch["weights"]).sum() / batch["weights"].sum()

        return jax.grad(loss)(leaves)

    for number in range(order.ends[-1]):
        epoch, place = order.place(number)
        batch = task.train.gather(*order.epoch(epoch)[place], order.batch_size)
        if number == end:
            for part in resets:
                getattr(optimizer, f"reset_{part}")()
        leaves = gradient({path: leaf.astype(np.float32) for path, leaf in optimizer.params.items()}, batch)
        frozen = "adapter.lora.0." if number >= end else "none"
        optimizer.step({path: leaf for path, leaf in leaves.items() if not path.startswith(frozen)})
    return optimizer.params


@pytest.fixture
def decaying(task) -> GraftTask:
    """A run of several optimiser steps an epoch, whose rate rises past the end of the first epoch."""
    optimizer = Optimizer(learning_rate=1e-2, accumulate=2, weight_decay=0.1, warmup_fraction=0.6)
    return replace(task, config=replace(task.config, optimizer=optimizer, epochs=3.0))


FREEZES_BLOCK_0 = (Stage("", until_epoch=1), Stage("1:"))


def test_what_stays_live_keeps_its_moments_and_its_rate(decaying, tmp_path):
    """Past a stage's end, parameters are those of an AdamW by hand that goes on for what stays live."""
    end = decaying.order.ends[0]
    kept = by_hand(decaying, end)
    begun_anew = {reset: by_hand(decaying, end, reset) for reset in ("moments", "schedule")}
    for cache in ("none", "float32"):
        staged, progress = trained(decaying, tmp_path / cache, cache, stages=FREEZES_BLOCK_0)
        assert (progress.stages[0].boundary, progress.stages[0].until) == (0, end)
        assert progress.stages[1].boundary == 1
        assert apart(staged, kept) < 1e-4
        for reset, other in begun_anew.items():
            assert apart(staged, other) > 1e-2, f"as if the {reset} had begun anew"


def test_the_step_is_compiled_as_the_config_says(task):
    """Rematerialised or not, in bfloat16 or not; leaves stay float32."""
    batch = task.train.gather(*task.order.epoch(0)[0], 8)

    def program(**fields) -> str:
        one = replace(task, config=replace(task.config, **fields))
        live, frozen = partition(map_leaves(np.asarray, one.model.init(jax.random.key(0))), lambda path: True)
        state, fixed = first_state(live, one.optimizer()), one.fixed(frozen)
        return str(jax.make_jaxpr(one.make_step(one.optimizer()))(state, fixed, batch))

    assert ("remat" in program(), "bf16" in program()) == (False, False)
    assert ("remat" in program(remat=True), "bf16" in program(compute_dtype="bfloat16")) == (True, True)


def test_gradient_ratio_freezes_upward_and_keeps_the_top(task, tmp_path):
    _, progress = trained(
        replace(task, config=replace(task.config, epochs=5.0)), tmp_path / "a", stages="gradient_ratio"
    )
    boundaries = [stage.boundary for stage in progress.stages]
    assert boundaries == sorted(boundaries)
    assert boundaries[0] == 0
    assert boundaries[-1] <= 2


def test_gradient_ratio_judges_only_blocks_with_adapters(task, tmp_path):
    """Those below have no gradient, and would hold the median at nothing."""
    model = GraftModel(task.backbone.network, (Lora(rank=2, blocks="2:"),), Classification(), task.model.labels)
    above = replace(task, model=model, config=replace(task.config, epochs=5.0))
    _, progress = trained(above, tmp_path / "a", stages="gradient_ratio")
    assert progress.stages[0].boundary == 0
    assert progress.stages[-1].boundary == 2


@pytest.mark.parametrize("stages", ["geometric(0.5)", "top(1)", (Stage("", until_epoch=1), Stage("none"))])
def test_a_ladder_that_reads_below_a_boundary_is_not_fed_from_it(stages, task, tmp_path):
    ladder = GraftModel(task.backbone.network, (Ladder(),), Classification(), task.model.labels)
    side = replace(task, model=ladder)
    plain, _ = trained(side, tmp_path / "a")
    staged, progress = trained(side, tmp_path / "b", stages=stages)
    assert not any(stage.cached for stage in progress.stages)
    if isinstance(stages, str):  # a side network is live to the end
        assert_same(plain, staged)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_what_a_stage_caches_does_not_depend_on_the_stage_before(storage, task, tmp_path):
    """A run that is killed between two stages begins the second one without the states of the first."""
    stages = (Stage("", until_epoch=0.5), Stage("1:", until_epoch=1), Stage("2:"))
    params, progress = trained(task, tmp_path / "a", storage, stages=stages)
    assert [stage.boundary for stage in progress.stages] == [0, 1, 2]
    adapter = unflatten(params)["adapter"]
    found = [
        Boundaries(task.model, task.backbone, adapter, folder, storage, 2**30)
        for folder in (tmp_path / "a" / "cache", tmp_path / "alone")
    ]
    assert [store.fill([task.train], (2,)) > 0 for store in found] == [False, True]
    longest = int(max(task.train.buckets))
    np.testing.assert_array_equal(*(store.padded(2, task.train.rows, longest) for store in found))


def test_all_caches_together_keep_to_their_limit(task, tmp_path, monkeypatch):
    """Rows of other runs make room, oldest first, in the same folder too; nothing goes that need not."""
    monkeypatch.setattr(cache_module, "SEGMENT_BYTES", 2000)
    half = [replace(task.train, rows=task.train.rows[i::2], labels=task.train.labels[i::2]) for i in (0, 1)]
    needed = Boundaries(task.model, task.backbone, {}, tmp_path, "float32", 2**30).bytes_needed(half, (1,), False)

    def fill(part: Examples, most: float) -> int:
        store = Boundaries(task.model, task.backbone, {}, tmp_path, "float32", int(most))
        return store.fill([part], (1,))

    first = fill(half[0], 2 * needed)
    assert fill(half[1], needed) > 0
    assert stored_bytes(tmp_path) <= needed
    assert fill(half[0], needed) == 0, "both fit, so the first was left"
    again = fill(half[1], 0.7 * needed)
    assert again == 0
    assert fill(replace(half[0], rows=half[0].rows[:1], labels=half[0].labels[:1]), 0.7 * needed) == 0
    wider = replace(task.train, rows=[row[:-1] for row in task.train.rows if len(row) > 8])
    wider = replace(wider, labels=task.train.labels[: len(wider.rows)])
    assert fill(wider, 0.9 * needed) > 0
    assert stored_bytes(tmp_path) <= 0.9 * needed
    assert first > 0


def test_who_waited_for_another_writer_computes_nothing_again(task, tmp_path):
    stores = [Boundaries(task.model, task.backbone, {}, tmp_path, "float32", 2**30) for _ in range(2)]
    for store in stores:
        assert not store.has_states(1, task.train)
    assert [store.fill([task.train], (1,)) > 0 for store in stores] == [True, False]
    assert all(store.has_states(1, task.train) for store in stores)


def test_work_falls_from_stage_to_stage_and_nothing_compiles_inside_one(task, tmp_path):
    with jax.log_compiles(), compiles() as seen:
        _, progress = trained(task, tmp_path / "a", stages=(Stage("", until_epoch=1), Stage("2:")))
    assert [s.boundary for s in progress.stages] == [0, 2]
    buckets = len(np.unique(task.train.buckets))
    assert seen.count("step") == 2 * buckets, "one program for each (boundary, bucket)"
    sizes = [train_step(task.model, 8, 16, boundary=b, cached=b > 0).flops for b in range(4)]
    assert sizes == sorted(sizes, reverse=True)
    assert progress.stages[1].flops < progress.stages[0].flops


def test_cached_logits_equal_uncached_ones_bit_for_bit(minilm, tmp_path):
    """float32, MiniLM, the same bucket, on CPU; and the weights are what they were."""
    model = GraftModel(minilm.network, (Lora(rank=2, blocks="4:"),), Classification(), ("a", "b", "c"))
    params = model.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.1 * draw.normal(size=x.shape).astype(np.float32), params)
    texts = ["a card that never came", "where is it", "the quick brown fox", "ten words of no use at all to anyone"] * 4
    tokens = minilm.preprocessing.encode(texts, 16)
    examples = Examples(tokens, np.zeros(len(tokens), np.int32), minilm.lengths)
    store = Boundaries(model, minilm, params["adapter"], tmp_path, "float32", 2**30)
    assert store.fill([examples], (2, 4), pooled=True) == 4, "duplicates are computed once"
    assert store.fill([examples], (2, 4), pooled=True) == 0
    batch = examples.gather(12, np.flatnonzero(examples.buckets == 12), 8)
    cached = {**batch, "states": {4: store.padded(4, examples_rows(examples, 12, 8), 12)}}
    del cached["ids"]
    logits = jax.jit(model.logits)
    np.testing.assert_array_equal(logits(minilm.params, params, cached), logits(minilm.params, params, batch))

    upgraded = Boundaries(model, minilm, params["adapter"], tmp_path / "other", "float32", 2**30)
    assert upgraded.fill([examples], (4,), below=CachedPrefix(store, 2)) == 4, "runs blocks 2 and 3 only"
    np.testing.assert_array_equal(upgraded.padded(4, tokens[:2], 16), store.padded(4, tokens[:2], 16))


def examples_rows(examples: Examples, bucket: int, size: int) -> list[np.ndarray]:
    chosen = np.flatnonzero(examples.buckets == bucket)
    chosen = np.concatenate([chosen, np.repeat(chosen[:1], size)])[:size]
    return [examples.rows[i] for i in chosen]


def test_a_prefix_without_adapters_is_shared_and_a_trained_one_is_not(tiny):
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), ("a", "b"))
    adapter = model.init(jax.random.key(0))["adapter"]
    top = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), Classification(), ("a", "b", "c"))
    other = GraftModel(tiny.network, (Bottleneck(blocks="2:"),), Classification(), ("a",))
    ids = {prefix_id(top, top.init(jax.random.key(1))["adapter"], 2), prefix_id(other, {}, 2)}
    assert ids == {"none"}
    below = prefix_id(model, adapter, 2)
    assert below not in (*ids, prefix_id(model, adapter, 1))
    changed = jax.tree.map(lambda leaf: leaf + 1, adapter)
    assert prefix_id(model, changed, 2) != below


def test_stored_states_that_are_not_what_is_computed_are_computed_again(task, tmp_path, caplog):
    model, backbone = task.model, task.backbone
    adapter = map_leaves(np.asarray, model.init(jax.random.key(0)))["adapter"]
    store = Boundaries(model, backbone, adapter, tmp_path, "float32", 2**30)
    count = store.fill([task.train], (1,))
    file = next(tmp_path.glob("*/*.rows"))
    content = np.fromfile(file, np.float32)
    content[:] += 1
    file.write_bytes(content.tobytes())
    sizes = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps(sizes | {"rows_sha256": sha256_file(file)}))
    again = Boundaries(model, backbone, adapter, tmp_path, "float32", 2**30)
    assert again.fill([task.train], (1,)) == count
    assert "computing again" in caplog.text


def test_a_cache_that_would_not_fit_is_not_begun(task, tmp_path):
    store = Boundaries(task.model, task.backbone, {}, tmp_path, "float32", 1000)
    with pytest.raises(MemoryError, match="would need"):
        store.fill([task.train], (1,))
    assert not list(tmp_path.iterdir())


def test_from_the_command_line_killed_in_every_stage_and_resumed(config, tmp_path, capsys):
    settings = ("--set", "epochs=9", "--set", "plan.stages=geometric(0.4)", "--set", "checkpoint_seconds=0.1")
    status, out, err = call("train", config, "--workdir", "whole", *settings, "--json", capsys=capsys)
    assert status == 0, err
    whole = as_json(out)
    assert [stage["boundary"] for stage in whole["stages"]] == [0, 2]
    workdir = tmp_path / "killed"
    checkpoints = workdir / "checkpoints"

    def steps() -> set[int]:
        return {int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()} if checkpoints.is_dir() else set()

    killed_run(config, workdir, lambda: any(s > 2 for s in steps()), *settings)
    killed_run(config, workdir, lambda: any(s > 20 for s in steps()), *settings, "--resume")
    done = as_json(run("train", config, "--workdir", workdir, *settings, "--quiet", "--resume", "--json").stdout)
    assert done["resumed"]
    told = [[(stage["boundary"], stage["steps"], stage["flops"]) for stage in r["stages"]] for r in (whole, done)]
    assert told[0] == told[1], "steps of the processes that were killed are told too"
    assert all(stage["cpu_seconds"] > 0 for stage in done["stages"])
    same(tmp_path / "whole", workdir)


KILLED_IN_A_FILL = """
import os, signal, sys
import backbone.cache as cache
import topgraft
add, left = cache.RowCache.add, int(sys.argv[1])
def counted(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(*arguments)
cache.RowCache.add, cache.SEGMENT_BYTES = counted, 4000
sys.exit(topgraft.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_killed_in_a_fill_and_resumed(storage, config, tmp_path, capsys, monkeypatch):
    """A part of the rows is stored when the process dies; what the resumed run reads is what a whole fill gives."""
    settings = ("--set", "epochs=2", "--set", "plan.stages=geometric(0.4)", "--set", f"plan.cache={storage}")
    programs = home() / "programs"
    for name in ("whole", "killed"):
        (tmp_path / f"home-{name}").mkdir()
        (tmp_path / f"home-{name}" / "programs").symlink_to(programs)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home-whole"))
    status, _, err = call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    assert status == 0, err
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home-killed"))
    words = ["train", str(config), "--workdir", "killed", *settings, "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED_IN_A_FILL, "60", *words]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    stored = list((tmp_path / "home-killed" / "boundaries").glob("*/*.json"))
    assert any(path.stem.isdecimal() for path in stored), "it died with a part of the rows on disk"
    run(*words, "--resume")
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("content", ["", "{}", "5"])
def test_a_damaged_description_costs_its_rows_and_nothing_else(content, config, capsys, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "programs").symlink_to(home() / "programs")
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    settings = ("--set", "plan.stages=top(1)", "--set", "epochs=1", "--quiet")
    assert call("train", config, "--workdir", "a", *settings, capsys=capsys)[0] == 0
    segment = next(p for p in (tmp_path / "home" / "boundaries").glob("*/*.json") if p.stem.isdecimal())
    segment.write_text(content)
    status, _, err = call("cache", "verify", capsys=capsys)
    assert (status, str(segment) in err) == (2, True)
    assert call("train", config, "--workdir", "b", *settings, capsys=capsys)[0] == 0
    same(tmp_path / "a", tmp_path / "b")
    description = segment.with_name("variant.json")
    description.write_text(content)
    for verb, wanted in (("stat", 0), ("verify", 2), ("gc", 0), ("verify", 0)):
        assert call("cache", verb, capsys=capsys)[0] == wanted, verb
    assert call("train", config, "--workdir", "c", *settings, capsys=capsys)[0] == 0
    same(tmp_path / "a", tmp_path / "c")


def test_notes_of_a_checkpoint_are_those_of_its_moment(tmp_path):
    notes = {"history": [{"step": 1}]}
    leaf = np.zeros(3, np.float32)
    state = {"step": np.int32(1), "live": {"head": leaf}, "optimizer": leaf}
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, state, {"head": leaf}, {}, notes)
        notes["history"].append({"step": 2})
        checkpoints.wait()
        assert checkpoints.notes()["history"] == [{"step": 1}]


@pytest.mark.parametrize(
    "change", [{"other": 1}, {"boundary": "x"}, {"best_score": "x"}, {"stages": [{}]}, {"stages": [5]}]
)
def test_notes_of_another_kind_are_refused(change):
    assert progress_of(encode(Progress())) == Progress()
    assert progress_of({**encode(Progress()), "best_score": -math.inf}) == Progress(), "how a former version noted none"
    with pytest.raises(InputError, match=r"--resume: .* start in another --workdir"):
        progress_of({**encode(Progress()), **change})


@pytest.mark.parametrize("stages", ["top(7)", "geometric(1.5)"])
def test_a_plan_that_fits_no_run_leaves_the_folder_free(stages, config, capsys):
    status, _, err = call("train", config, "--workdir", "run", "--set", f"plan.stages={stages}", capsys=capsys)
    assert status == 2
    assert "stages: " in err
    status, _, err = call("train", config, "--workdir", "run", "--set", "plan.stages=top(1)", capsys=capsys)
    assert status == 0, err


def test_top_gives_the_lower_blocks_no_adapter(config, capsys):
    settings = ("--set", "plan.stages=top(1)", "--set", "epochs=2")
    status, out, err = call("train", config, "--workdir", "top", *settings, "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["accuracy"] > 0.8
    assert {path.split(".")[2] for path in tensors(Path("top")) if path.startswith("adapter")} == {"2"}
    status, out, _ = call("cache", "stat", "--json", capsys=capsys)
    assert status == 0
    assert any(v["variant"]["boundary"] == 2 and v["variant"]["prefix_id"] == "none" for v in as_json(out)["variants"])
    assert call("cache", "verify", capsys=capsys)[0] == 0
    settings = (*settings, "--set", "adapter.blocks=1:")
    status, _, err = call("train", config, "--workdir", "both", *settings, capsys=capsys)
    assert status == 2
    assert "decides the blocks" in err
