"""Which blocks each schedule and each list of stages trains when, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.errors import InputError
from backbone.trees import flatten, map_leaves
from tests.command import call, tensors
from tests.tiny import as_json
from tests.trainers.training import trained
from trainers.config import Plan, Stage
from trainers.fitting.step import first_state, partition
from trainers.freezing.gradient_ratio import GradientRatio
from trainers.freezing.schedule import RunShape

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
    assert GradientRatio().decide([100, 1, 1], [95, 0.5, 0.2], 0) == 1, "a change is a share of what there was"


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


def test_gradient_ratio_reads_the_gradients_of_one_stage(task, tmp_path):
    """After three epochs the norms are those of the second, in which no block was frozen yet."""
    longer = replace(task, config=replace(task.config, epochs=3.0, plan=Plan(stages="gradient_ratio")))
    _, progress = trained(longer, tmp_path / "a", "none", stages="gradient_ratio")
    live, frozen = partition(map_leaves(np.asarray, longer.model.init(jax.random.key(0))), lambda path: True)
    optimizer, order = longer.optimizer(), longer.order
    step, fixed, sums = longer.make_step(optimizer), longer.fixed(frozen), []
    arrays = first_state(live, optimizer, track=True)
    for number in range(longer.spans[1].until):
        epoch, place = order.place(number)
        arrays = step(arrays, fixed, longer.train.gather(*order.epoch(epoch)[place], order.batch_size))
        if number + 1 in (longer.spans[0].until, longer.spans[1].until):
            sums.append(flatten(map_leaves(np.asarray, arrays["gradient"])))
    second = {path: after - before for (path, before), after in zip(sums[0].items(), sums[1].values(), strict=True)}
    for block, norm in enumerate(progress.norms):
        leaves = [leaf for path, leaf in second.items() if path.startswith(f"adapter.lora.{block}.")]
        assert norm == pytest.approx(np.sqrt(sum(np.square(leaf).sum() for leaf in leaves)), rel=1e-4)
    assert len(progress.norms) == 3


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
