"""`plan.max_memory_mb`: parts of a batch have the batch's gradient, and the run keeps the budget it was given."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from backbone.errors import InputError
from backbone.trees import flatten, map_leaves
from tests.command import call, same
from tests.tiny import as_json
from trainers.config import Plan, Stage
from trainers.config.load import load_config
from trainers.data.batches import part_of
from trainers.fitting.step import first_state, make_step, partition
from trainers.fitting.task import GraftTask, live_from
from trainers.plan import plan
from trainers.runs import memory
from trainers.runs.interruption import Interruption
from trainers.runs.memory import MB, PROGRAM, StepForm, chosen, forms, resident_bytes
from trainers.train import train


def stepped(task: GraftTask, form: StepForm, rows: int) -> dict[str, np.ndarray]:
    """The live leaves after two steps on a batch of 8 rows, of which `rows` are no filling."""
    optimizer = task.optimizer()
    step = make_step(task.model, optimizer, remat=form.remat, seed=0, parts=form.parts)
    live, frozen = partition(map_leaves(np.asarray, task.model.init(jax.random.key(0))), live_from(0))
    state = first_state(jax.tree.map(jax.numpy.asarray, live), optimizer)
    fixed = {"backbone": task.backbone.params, "graft": frozen}
    bucket = int(task.train.buckets.max())
    batch = task.train.gather(bucket, np.flatnonzero(task.train.buckets == bucket)[:rows], 8)
    for _ in range(2):
        state = step(state, fixed, batch)
    leaves = flatten({"live": state["live"], "sums": state["sums"]})
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@pytest.mark.parametrize("rows", [8, 5, 1])
def test_parts_and_blocks_computed_again_have_the_gradient_of_the_whole(task, rows):
    """Also where parts hold nothing but filling: five rows of eight leave one of four empty, one row leaves three."""
    plain = stepped(task, StepForm(), rows)
    for form in (StepForm(4), StepForm(8, remat=True)):
        other = stepped(task, form, rows)
        for path, leaf in plain.items():
            np.testing.assert_allclose(other[path], leaf, rtol=2e-4, atol=2e-5, err_msg=f"{path} {form}")
    assert np.abs(plain["live.head.kernel"]).max() > 1e-3, "the steps trained something"


def test_forms_go_from_whole_batches_to_single_rows_computed_again():
    assert forms(6, remat=False) == (
        StepForm(1),
        StepForm(2),
        StepForm(3),
        StepForm(6),
        StepForm(6, remat=True),
    )
    assert forms(4, remat=True) == (StepForm(1, True), StepForm(2, True), StepForm(4, True))


@pytest.mark.parametrize("room", [5000, 1700, 900, 450])
def test_the_first_form_that_fits_is_chosen(room):
    options = forms(8, remat=False)
    sizes = dict(zip(options, (4000e6, 2000e6, 1000e6, 500e6, 400e6), strict=True))
    limit = resident_bytes() / MB + room + 30  # what the test itself takes meanwhile
    result = chosen(options, sizes.__getitem__, 0, limit)
    expected = next(form for form in options if sizes[form] / MB <= room)
    assert result.form == expected
    assert result.needed_mb <= limit


def test_a_budget_below_the_floor_names_what_takes_it():
    with pytest.raises(InputError, match=r"below the floor of this run, .* and the smallest step takes 600"):
        chosen(forms(2, remat=False), lambda form: 600_000_000, 0, 300)
    with pytest.raises(InputError, match=r"and a pass over held-out rows takes 900"):
        chosen(forms(2, remat=False), lambda form: 1, 900_000_000, 300)


def test_less_memory_is_planned_for_smaller_forms(task):
    large = replace(task, config=replace(task.config, batch_size=16, plan=Plan(stages="all", max_memory_mb=1e6)))
    assert large.memory.form == StepForm(1)
    taken = []
    for form in (StepForm(1), StepForm(4), StepForm(16, remat=True)):
        optimizer = large.optimizer()
        bucket = int(large.train.buckets.max())
        live, frozen = partition(large.model.abstract(), live_from(0))
        state = jax.eval_shape(functools.partial(first_state, optimizer=optimizer), live)
        fixed = {"backbone": large.backbone.params, "graft": frozen}
        program = large.step_in(form, optimizer).lower(state, fixed, large.train.gather(bucket, np.arange(1), 16))
        taken.append(program.compile().memory_analysis().temp_size_in_bytes)
    assert taken[0] > 2 * taken[1] > 2 * taken[2]


def planned(task: GraftTask, *stages: Stage) -> memory.MemoryPlan:
    config = replace(task.config, batch_size=16, plan=Plan(stages=stages or (Stage(""),), max_memory_mb=1e6))
    return replace(task, config=config).memory


def test_the_largest_stage_decides_and_not_the_first_one(task, monkeypatch):
    monkeypatch.setattr(memory, "COMPILING", 0)  # more than any step of so small a model
    top, both = planned(task, Stage("2:")), planned(task, Stage("2:", until_epoch=1), Stage(""))
    assert both.step_mb == planned(task).step_mb > top.step_mb


def test_a_pass_is_planned_for_the_longest_rows_of_any_split(task):
    short = part_of(task.train, np.flatnonzero(task.train.buckets == task.train.buckets.min()))
    longer, both = planned(replace(task, train=short)), planned(task)
    assert longer.pass_mb + PROGRAM / MB == pytest.approx(both.pass_mb)


def test_a_resumed_run_keeps_its_form_whatever_memory_is_taken_by_then(config, tmp_path, monkeypatch, capsys):
    words = ("--set", "plan.max_memory_mb=100000", "--quiet")
    call("train", config, "--workdir", "whole", *words, capsys=capsys)
    look = Interruption.look

    def signalled(self, done: int) -> bool:
        self.signalled |= done == 5
        return look(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "look", signalled)
        assert call("train", config, "--workdir", "run", *words, capsys=capsys)[0] == 143
    monkeypatch.setattr(memory, "resident_bytes", lambda: 99_999 * MB)
    status, out, err = call("train", config, "--workdir", "run", *words, "--resume", "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["resumed"]
    same(tmp_path / "whole", tmp_path / "run")
    status, _, err = call("train", config, "--workdir", "fresh", *words, capsys=capsys)
    assert (status, "below the floor of this run" in err) == (2, True), err


def test_a_run_keeps_the_budget_that_it_was_given(config, tmp_path, capsys):
    free = plan(load_config(config, ("plan.max_memory_mb=100000",)))
    assert free.memory.form == StepForm(1)
    limit = round(free.memory.needed_mb + 100)
    result = train(load_config(config, (f"plan.max_memory_mb={limit}",)), tmp_path / "run")
    assert result.costs["train"].peak_bytes <= limit * MB
    status, out, err = call("train", config, "--workdir", "low", "--set", "plan.max_memory_mb=20", capsys=capsys)
    assert (status, "below the floor of this run" in err) == (2, True), err
    assert not (tmp_path / "low" / "metrics.jsonl").exists(), "no step was run"
    status, out, _ = call("plan", config, "--set", "plan.max_memory_mb=100000", "--json", capsys=capsys)
    assert as_json(out)["memory"]["form"] == {"parts": 1, "remat": False}


def test_what_reads_no_budget_refuses_it(config, tiny_path):
    with pytest.raises(InputError, match=r"max_memory_mb: probe is fitted without steps"):
        load_config(config, ("plan.max_memory_mb=500", "adapter.method=probe"))
    with pytest.raises(InputError, match=r"max_memory_mb: must be positive"):
        load_config(config, ("plan.max_memory_mb=-1",))
