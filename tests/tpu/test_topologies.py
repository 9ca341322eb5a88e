"""Steps of every method, head and objective compiled for eight chips of a TPU v5e, on a machine that has none.

`make test-tpu` installs `libtpu` into an environment of its own. Elsewhere these tests skip.
"""

from __future__ import annotations

import collections
import os
import re
from typing import Any

import jax
import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.meshes.layout import Layout
from backbone.meshes.mesh import Mesh
from backbone.meshes.rules import bytes_per_device, laid_out
from backbone.network.encoder import Network
from backbone.spec import EncoderSpec
from backbone.trees import shapes
from tests import tiny
from tests.adapters.test_heads import KINDS
from tests.adapters.test_heads import task_of as head_task
from tests.methods import METHODS
from tests.trainers.pretraining.backbone_runs import OBJECTIVES, first_params, task_of
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step, partition, step_of

pytest.importorskip("libtpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no machine of Google's is asked where this one is

COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
OPTIMIZER = make_optimizer(Optimizer(clip_norm=1.0), 10)


@pytest.fixture(scope="module")
def chips() -> tuple[Any, ...]:
    from jax.experimental import topologies

    return tuple(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices)


def compiled(layout: Layout, step: Any, live: Any, fixed: Any, batch: dict[str, Any]) -> Any:
    """The program of a step, from shapes alone."""

    def placed(tree: Any) -> Any:
        shape_of = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)  # noqa: E731
        return jax.tree.map(shape_of, tree, layout.shardings(tree))

    state = placed(jax.eval_shape(lambda live: first_state(live, OPTIMIZER), live))
    rows = layout.sharding(("data", "fsdp"))
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows) for name, array in batch.items()}
    return step.lower(state, placed(fixed), arrays).compile()


def collectives(program: Any) -> collections.Counter[str]:
    return collections.Counter(COLLECTIVE.findall(program.as_text()))


def graft_program(chips: tuple[Any, ...], model: GraftModel, labels: np.ndarray) -> Any:
    layout, tokens = Layout(Mesh(data=2, fsdp=2, tensor=2), chips), labels.shape[1] if labels.ndim == 2 else 8
    tokens = tokens if model.head.one_answer_per == "word" else 8
    ids = np.ones((len(labels) * model.sides, tokens), np.int32)
    batch = {"ids": ids, "mask": ids > 0, "labels": labels, "weights": np.ones(len(labels), np.float32)}
    step = make_step(model, OPTIMIZER, remat=True, seed=0, layout=layout)
    fixed = {"backbone": model.network.abstract(), "graft": {}}
    return compiled(layout, step, model.abstract(), fixed, batch)


@pytest.mark.parametrize("name", METHODS)
def test_the_step_of_a_method_compiles_for_eight_chips(name, chips):
    model = GraftModel(Network(tiny.SPEC), (METHODS[name],), Classification(dropout=0.1), ("a", "b", "c"))
    program = graft_program(chips, model, np.zeros(8, np.int32))
    assert collectives(program)["all-reduce"], "the gradient of the rows is added up"
    assert program.memory_analysis().argument_size_in_bytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_of_a_head_compiles_for_eight_chips(kind, chips):
    task = head_task(kind)
    labels = np.resize(task.labels, (8, *task.labels.shape[1:]))
    assert collectives(graft_program(chips, task.model(Lora(rank=2)), labels))["all-reduce"]


@pytest.mark.parametrize("tag", OBJECTIVES)
def test_the_step_of_an_objective_compiles_for_eight_chips(tag, chips):
    task, layout = task_of(tag), Layout(Mesh(data=2, fsdp=2, tensor=2), chips)
    live, frozen = partition(first_params(task), task.is_live)
    step = step_of(task.loss, OPTIMIZER, seed=0, layout=layout)
    program = compiled(layout, step, live, frozen, task.material.batch("train", np.arange(8), 8))
    assert {"all-reduce", "all-gather"} <= collectives(program).keys()


@pytest.mark.parametrize("mesh", [Mesh(data=8), Mesh(fsdp=8), Mesh(data=2, fsdp=2, tensor=2)], ids=str)
def test_bytes_of_a_chip_are_those_of_the_rules(mesh, chips):
    """A BERT of sizes that a chip does not pad; nothing but lora and head is trained."""
    spec = EncoderSpec(blocks=2, width=512, heads=8, mlp_width=2048, vocabulary=4096, positions=128, pooler=False)
    model = GraftModel(Network(spec), (Lora(rank=8),), Classification(), ("a", "b", "c"))
    layout = Layout(mesh, chips)
    ids = np.ones((16, 64), np.int32)
    batch = {"ids": ids, "mask": ids > 0, "labels": np.zeros(16, np.int32), "weights": np.ones(16, np.float32)}
    step = make_step(model, OPTIMIZER, remat=False, seed=0, layout=layout)
    program = compiled(layout, step, model.abstract(), {"backbone": model.network.abstract(), "graft": {}}, batch)
    by_rule = bytes_per_device(laid_out(mesh, shapes(model.network.abstract())).values())
    trained = 3 * bytes_per_device(laid_out(mesh, shapes(model.abstract())).values())
    read = program.memory_analysis().argument_size_in_bytes
    assert by_rule <= read <= 1.1 * by_rule + 20 * trained, "narrow adapters are padded to 128 lanes"
