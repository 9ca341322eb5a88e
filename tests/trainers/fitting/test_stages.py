"""Stages of a run: what is exact past a stage's end, what a stage saves, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adapters.costs import train_step
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.trees import flatten, map_leaves, unflatten
from tests.command import call, killed_run, run, same
from tests.home import linked
from tests.tiny import as_json
from tests.trainers.training import apart, assert_same, compiles, trained
from trainers.config import Optimizer, Stage
from trainers.fitting.cached_states import Boundaries, CachedPrefix
from trainers.fitting.step import first_state, partition
from trainers.fitting.task import GraftTask

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.cpu_bits
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


@pytest.mark.cpu_bits
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


@dataclass(frozen=True, eq=False)
class Interrupted(GraftTask):
    """A task whose process ends before a batch."""

    after: int = 0  # batches that it still runs

    def batches(self, done, until, states):
        for batch in super().batches(done, until, states):
            if done == self.after:
                raise KeyboardInterrupt
            yield batch
            done += 1


def interrupted(task: GraftTask, after: int, folder: Path, checkpoint_seconds: float, **plan) -> int:
    """Runs `task` until it is interrupted; returns the micro-batches of its newest checkpoint."""
    fields = {name: getattr(task, name) for name in ("model", "backbone", "train", "dev")}
    config = replace(task.config, checkpoint_seconds=checkpoint_seconds)
    with pytest.raises(KeyboardInterrupt):
        trained(Interrupted(config=config, **fields, after=after), folder, **plan)
    return max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.mark.cpu_bits
@pytest.mark.parametrize("schedule", ["geometric(0.5)", "gradient_ratio"])
def test_interrupted_in_mid_stage_and_resumed(schedule, task, tmp_path):
    """A checkpoint after every batch; the run goes on from the last, in the stage that was under way."""
    longer = replace(task, config=replace(task.config, epochs=3.0))
    whole, progress = trained(longer, tmp_path / "whole", stages=schedule)
    after = longer.order.ends[1] + 3
    assert interrupted(longer, after, tmp_path / "parts", 1e-9, stages=schedule) == after
    resumed, again = trained(longer, tmp_path / "parts", stages=schedule)
    assert_same(whole, resumed)
    assert again.norms == progress.norms, "what a schedule decides by is that of whole stages"
    for left, right in zip(progress.stages, again.stages, strict=True):
        assert (left.until, left.boundary, left.steps) == (right.until, right.boundary, right.steps)


def test_an_epochs_end_is_saved_whatever_the_clock_says(task, tmp_path):
    whole, _ = trained(task, tmp_path / "whole")
    end = task.order.ends[0]
    assert interrupted(task, end + 2, tmp_path / "parts", 0.0) == end
    resumed, _ = trained(task, tmp_path / "parts")
    assert_same(whole, resumed)


def test_work_falls_from_stage_to_stage_and_nothing_compiles_inside_one(task, tmp_path):
    with jax.log_compiles(), compiles() as seen:
        _, progress = trained(task, tmp_path / "a", stages=(Stage("", until_epoch=1), Stage("2:")))
    assert [s.boundary for s in progress.stages] == [0, 2]
    buckets = len(np.unique(task.train.buckets))
    assert seen.count("step") == 2 * buckets, "one program for each (boundary, bucket)"
    sizes = [train_step(task.model, 8, 16, boundary=b, cached=b > 0).flops for b in range(4)]
    assert sizes == sorted(sizes, reverse=True)
    assert progress.stages[1].flops < progress.stages[0].flops


@pytest.mark.cpu_bits
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


@pytest.mark.cpu_bits
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_killed_in_a_fill_and_resumed(storage, config, tmp_path, capsys, monkeypatch):
    """A part of the rows is stored when the process dies; what the resumed run reads is what a whole fill gives."""
    settings = ("--set", "epochs=2", "--set", "plan.stages=geometric(0.4)", "--set", f"plan.cache={storage}")
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home-whole")))
    status, _, err = call("train", config, "--workdir", "whole", *settings, "--quiet", capsys=capsys)
    assert status == 0, err
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home-killed")))
    words = ["train", str(config), "--workdir", "killed", *settings, "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED_IN_A_FILL, "60", *words]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    stored = list((tmp_path / "home-killed" / "boundaries").glob("*/*.json"))
    assert any(path.stem.isdecimal() for path in stored), "it died with a part of the rows on disk"
    run(*words, "--resume")
    same(tmp_path / "whole", tmp_path / "killed")
