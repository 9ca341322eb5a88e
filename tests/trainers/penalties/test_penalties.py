"""One suite that every penalty inherits: its formula by NumPy, its weight over a run, its effect in training.

A new penalty is found by its registration and needs a formula here.
"""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from adapters.methods.method import Method
from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Lora, Probe
from backbone.errors import InputError
from backbone.records import decode, encode, encode_set
from backbone.trees import flatten, map_leaves
from backbone.variants.registered import variants
from tests.grafts import nonzero
from tests.trainers.training import assert_same, trained
from trainers.config import TrainConfig
from trainers.config.former import former_values
from trainers.fitting.loop import fit
from trainers.fitting.state import LoopState
from trainers.penalties.penalty import Part, Penalty, parts_of, total
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.logs import Scalars

PENALTIES = {tag: kind.example() for tag, kind in variants(Penalty).items()}


def group_lasso(part: Part) -> float:
    """Norms of the groups, written out entry by entry."""
    leaves = {name: np.asarray(leaf, float) for name, leaf in part.leaves.items()}
    if part.method.tag == "lora":
        groups = [np.concatenate([leaves["a"][:, r], leaves["b"][r]]) for r in range(leaves["a"].shape[1])]
    else:
        units = range(leaves["down"].shape[1])
        groups = [
            np.concatenate([leaves["down"][:, u], leaves["down_bias"][u : u + 1], leaves["up"][u]]) for u in units
        ]
    return sum(np.sqrt(len(group)) * np.linalg.norm(group) for group in groups)


def orthogonality(part: Part) -> float:
    """Inner products of every pair of different ranks."""
    leaves = {name: np.asarray(leaf, float) for name, leaf in part.leaves.items()}
    columns, rows = (leaves["a"].T, leaves["b"]) if part.method.tag == "lora" else (leaves["down"].T, leaves["up"])
    count = range(len(rows))
    return sum((vectors[i] @ vectors[j]) ** 2 for vectors in (columns, rows) for i in count for j in count if i != j)


def decay_to_start(part: Part) -> float:
    return sum(((np.asarray(leaf, float) - part.start[name]) ** 2).sum() for name, leaf in part.leaves.items()) / 2


FORMULAS = {f.__name__: f for f in (group_lasso, orthogonality, decay_to_start)}


@pytest.mark.parametrize("tag", PENALTIES)
@pytest.mark.parametrize("method", [Lora(rank=3), Bottleneck(width=4, placement="houlsby")], ids=["lora", "bottleneck"])
def test_the_sum_over_the_adapter_is_the_formula(tag, method, tiny):
    model = GraftModel(tiny.network, (method,), Classification(), ("a", "b"))
    adapter, start = nonzero(model)["adapter"], map_leaves(np.asarray, model.init(jax.random.key(0)))["adapter"]
    parts = list(parts_of(model.methods, adapter, start))
    assert len(parts) == len(model.site_parts[method.tag][1]), "one part for each site"
    wanted = 0.5 * sum(FORMULAS[tag](part) for part in parts)
    penalty = replace(PENALTIES[tag], weight=0.5)
    assert float(total((penalty,), model.methods, adapter, start, 0.3)) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0
    gradient = jax.grad(lambda live: total((penalty,), model.methods, live, start, 0.3))(start)
    assert all(np.isfinite(leaf).all() for leaf in flatten(gradient).values()), "also where leaves are zero"


@pytest.mark.parametrize("tag", PENALTIES)
def test_the_weight_over_a_run(tag):
    rising, falling = (replace(PENALTIES[tag], weight=2.0, schedule=name) for name in ("rising", "falling"))
    assert [rising.weight_at(share) for share in (0.0, 0.25, 1.0)] == [0.0, 0.5, 2.0]
    assert [falling.weight_at(share) for share in (0.0, 0.25, 1.0)] == [2.0, 1.5, 0.0]
    assert replace(PENALTIES[tag], weight=2.0).weight_at(0.7) == 2.0
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"^weight: must be positive and finite"):
            replace(PENALTIES[tag], weight=weight)


@pytest.mark.parametrize("tag", PENALTIES)
def test_a_run_with_a_penalty_has_a_smaller_one_in_the_end(tag, task, tmp_path):
    """Training beside it, value after value; the start of the run is what the penalty was given."""
    penalty = replace(PENALTIES[tag], weight=100 * PENALTIES[tag].weight)

    def run(name: str, *penalties: Penalty):
        config = replace(task.config, penalties=penalties, checkpoint_seconds=0)
        return trained(replace(task, config=config), tmp_path / name)[0]

    start = map_leaves(np.asarray, task.model.init(jax.random.key(0)))["adapter"]

    def value(leaves) -> float:
        adapter = {"lora": {}}
        for path, leaf in leaves.items():
            part, *rest = path.split(".")
            if part == "adapter":
                adapter["lora"].setdefault(rest[1], {}).setdefault(rest[2], {})[rest[3]] = leaf
        return float(total((penalty,), task.model.methods, adapter, start, 1.0))

    assert value(run("with", penalty)) < 0.9 * value(run("without"))


def test_a_run_that_goes_on_decays_to_its_first_start(task, tmp_path):
    """Killed after an epoch and resumed, to the last bit."""
    penalty = replace(PENALTIES["decay_to_start"], weight=1.0)
    task = replace(task, config=replace(task.config, penalties=(penalty,), select="last"))
    straight = trained(task, tmp_path / "straight", "none")[0]
    for stop in (True, False):
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            state = LoopState(task, map_leaves(np.asarray, task.model.init(jax.random.key(0 if stop else 1))))
            assert state.restore(checkpoints) != stop
            fit(task, state, checkpoints, Scalars(tmp_path, state.done), stop_if=lambda progress, stop=stop: stop)
            if stop:
                assert 0 < state.done < task.total_steps
                state.progress.stopped = False
                checkpoints.save(state.done, state.arrays, state.best, state.frozen, state.notes())
                checkpoints.wait()
    assert_same(flatten(state.params), straight)


@pytest.mark.parametrize("tag", PENALTIES)
def test_a_penalty_is_read_as_it_is_written(tag):
    config = TrainConfig(penalties=(replace(PENALTIES[tag], weight=0.25, schedule="rising"),))
    assert decode(TrainConfig, json.loads(json.dumps(encode(config)))) == config
    assert encode_set(config) != encode_set(TrainConfig()), "it is part of the fingerprint"


def test_without_penalties_and_ranks_a_config_is_what_it_was():
    assert not {"penalties", "ranks"} & (encode(TrainConfig()).keys() | former_values(TrainConfig()).keys())


@pytest.mark.parametrize(
    ("tag", "method", "message"),
    [
        ("group_lasso", IA3(), r"^penalties\[0\]: group_lasso acts on ranks or hidden units; .*ia3 has none: use lora"),
        ("orthogonality", IA3(), r"^penalties\[0\]: orthogonality acts on ranks"),
        ("decay_to_start", Probe(), r"^penalties\[0\]: decay_to_start is a term of a training step, and a probe"),
    ],
)
def test_a_penalty_without_anything_to_act_on_is_refused(tag: str, method: Method, message: str):
    with pytest.raises(InputError, match=message):
        TrainConfig(adapter=method, penalties=(PENALTIES[tag],))
