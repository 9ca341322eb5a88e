"""Ranks under a budget of bytes: which go, what is left, and what a stored graft holds then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import topgraft
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import IA3, Bottleneck, Classification, Dora, Lora
from backbone.errors import InputError
from backbone.meshes.layout import parameter_name
from backbone.meshes.mesh import Mesh
from backbone.meshes.rules import axes_of
from backbone.trees import flatten, map_leaves
from tests.grafts import nonzero
from tests.tiny import write_config
from trainers.config import Plan, Ranks, TrainConfig
from trainers.config.load import load_config
from trainers.fitting.ranks import budgeted, byte_limit, chosen_ranks, narrowed, ranked_sites, require_budget
from trainers.fitting.step import first_state, step_of
from trainers.train import train

SITES = ("attention/query", "mlp/up")  # 32 x 32 and 32 x 64: ranks of 256 and of 384 bytes


def model_of(tiny, method=None) -> GraftModel:
    return GraftModel(tiny.network, (method or Lora(rank=4, sites=SITES),), Classification(), ("a", "b", "c"))


def test_the_best_ranks_by_score_fit_into_the_bytes(tiny):
    sites = ranked_sites(model_of(tiny))
    assert [(site.bytes, site.count, site.min_ranks) for site in sites] == [(256, 4, 0), (384, 4, 0)] * 3
    draw = np.random.default_rng(0)
    keys = [f"adapter.lora.{site.site.block}.{site.site.name}" for site in sites]
    scores = {key: draw.permutation(100)[:4].astype(np.float32) + i / 7 for i, key in enumerate(keys)}
    kept = {key: jnp.arange(4) != 2 for key in keys}  # one rank of each site is gone
    result = chosen_ranks(sites, scores, kept, 2000)
    pairs = list(zip(sites, keys, strict=True))
    ranking = sorted((-scores[key][r], site.bytes, key, r) for site, key in pairs for r in (0, 1, 3))
    wanted, spent = set(), 0
    for _, size, key, r in ranking:
        if spent + size > 2000:
            break
        spent += size
        wanted.add((key, r))
    assert {(key, r) for key in keys for r in range(4) if result[key][r]} == wanted
    assert 0 < len(wanted) < 18


def test_the_budget_falls_by_the_cubic_rule(tiny):
    sites = ranked_sites(model_of(tiny))
    whole, settings = 3 * 4 * (256 + 384), Ranks(max_bytes=1000, start=0.2, end=0.6)
    limits = [float(byte_limit(settings, sites, share)) for share in (0.0, 0.2, 0.3, 0.6, 1.0)]
    assert limits == pytest.approx([whole, whole, 1000 + (whole - 1000) * 0.75**3, 1000, 1000])


def test_importance_is_that_of_the_paper_and_a_removed_rank_stays_zero(tiny):
    """Three steps on a quadratic loss, against equations 8 to 10 in NumPy."""
    model = model_of(tiny)
    live = map_leaves(np.asarray, nonzero(model))
    settings = Ranks(max_bytes=4000, start=0.0, end=1.0, every=1)
    optimizer = budgeted(settings, model, 3)(optax.sgd(1e-2))
    targets = jax.tree.map(lambda leaf: jnp.asarray(np.sin(np.arange(leaf.size)).reshape(leaf.shape)), live)

    def loss(tree, frozen, batch, rng):
        return sum(jnp.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (tree, targets)), strict=True)), 1.0

    step, state = step_of(loss, optimizer, seed=0), first_state(jax.tree.map(jnp.array, live), optimizer)
    weights = {path: leaf.astype(float) for path, leaf in flatten(live).items()}
    aims = {path: np.asarray(leaf, float) for path, leaf in flatten(targets).items()}
    smooth, spread = ({path: np.zeros_like(leaf) for path, leaf in weights.items()} for _ in range(2))
    sites, alive = ranked_sites(model), {}
    for number in range(3):
        state = step(state, {}, {})
        scores = {}
        for path, leaf in weights.items():
            now = np.abs(leaf * 2 * (leaf - aims[path]))
            smooth[path] = 0.85 * smooth[path] + 0.15 * now
            spread[path] = 0.85 * spread[path] + 0.15 * np.abs(now - smooth[path])
            weights[path] = leaf - 1e-2 * 2 * (leaf - aims[path])
        for i, site in enumerate(sites):
            a, b = (f"adapter.lora.{site.site.block}.{site.site.name}.{name}" for name in "ab")
            products = np.concatenate([(smooth[a] * spread[a]).T, smooth[b] * spread[b]], axis=1)
            scores |= {(i, r): value for r, value in enumerate(products.mean(axis=1)) if alive.get((i, r), True)}
        limit = 4000 + (3 * 4 * 640 - 4000) * (1 - (number + 1) / 3) ** 3
        spent, over = 0, False
        for place in sorted(scores, key=lambda place: -scores[place]):
            over |= spent + sites[place[0]].bytes > limit + 0.5
            alive[place] = not over
            spent += 0 if over else sites[place[0]].bytes
        for (i, r), lives in alive.items():
            if not lives:
                a, b = (f"adapter.lora.{sites[i].site.block}.{sites[i].site.name}.{name}" for name in "ab")
                weights[a][:, r] = weights[b][r] = 0
    assert 0 < sum(alive.values()) < len(alive)
    for path, leaf in flatten(state["live"]).items():
        np.testing.assert_allclose(leaf, weights[path], atol=2e-5, err_msg=path)


@pytest.mark.parametrize(
    "method",
    [Lora(rank=4, sites=SITES), Lora(rank=4, sites=SITES, scaling="rank_stabilised"), Dora(rank=4, sites=SITES)],
)
def test_a_graft_without_its_zero_ranks_answers_as_before(method, tiny):
    model = model_of(tiny, method)
    params = map_leaves(np.array, nonzero(model))
    leaves = flatten(params)
    for site, ranks in zip(ranked_sites(model), ([0], [1, 3], [0, 1, 2, 3], [], [2], [0, 1, 2]), strict=True):
        for path, axis in site.axes.items():
            leaves[path][(slice(None),) * axis + (ranks,)] = 0
    small, fewer = narrowed(model, params)
    shapes = {path: leaf.shape for path, leaf in flatten(fewer).items() if path.endswith(".a")}
    emptied = [] if method.tag == "lora" else [(32, 1)]
    assert list(shapes.values()) == [(32, 3), (32, 2), *emptied, (32, 4), (32, 3), (32, 1)]
    assert {path: leaf.shape for path, leaf in flatten(small.abstract()).items()} == {
        path: leaf.shape for path, leaf in flatten(fewer).items()
    }
    rows = [np.arange(2, 12, dtype=np.int32)]
    before, after = (Graft(m, p, tiny, 48).logits_of_rows(rows) for m, p in ((model, params), (small, fewer)))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_run_under_a_budget_stores_smaller_arrays(tiny_path, tmp_path):
    """The stored graft keeps the budget, opens, verifies and answers; the same seed gives the same one."""
    script = write_config(tmp_path / "config.py", tiny_path, tmp_path)
    settings = (
        "epochs=3",
        "optimizer.learning_rate=0.01",
        'adapter.sites=["attention/*"]',
        "ranks.max_bytes=6000",
        "ranks.every=2",
    )
    results = [train(load_config(script, settings), tmp_path / name) for name in ("one", "two")]
    assert results[0].content_id == results[1].content_id
    leaves = load_file(Path(results[0].graft) / "graft.safetensors")
    adapter = {path: leaf for path, leaf in leaves.items() if path.startswith("adapter.")}
    assert 0.9 * 6000 - 512 < sum(leaf.nbytes for leaf in adapter.values()) <= 6000
    assert len({leaf.shape[1] for path, leaf in adapter.items() if path.endswith(".a")}) > 1, "ranks differ"
    assert len(topgraft.load(results[0].graft).predict(["ban ban"])) == 1
    assert results[0].metrics["test"]["accuracy"] > 0.6


@pytest.mark.parametrize("method", [IA3(), Bottleneck()])
def test_a_method_without_ranks_of_its_own_is_refused(method):
    with pytest.raises(InputError, match=rf"^ranks.max_bytes: {method.tag} has no ranks that may differ"):
        TrainConfig(adapter=method, ranks=Ranks(max_bytes=1000))
    with pytest.raises(InputError, match=r"^ranks.max_bytes: needs stages that are known; set plan.stages"):
        TrainConfig(plan=Plan(stages="auto"), ranks=Ranks(max_bytes=1000))


def test_a_budget_that_leaves_no_rank_is_refused(tiny, task):
    with pytest.raises(InputError, match=r"leaves no rank: the adapter has 7680 bytes, and the smallest .* has 384"):
        require_budget(Ranks(max_bytes=383), model_of(tiny))
    dora = model_of(tiny, Dora(rank=4, sites=SITES))
    with pytest.raises(InputError, match=r"has 8832 bytes, and the smallest that is left has 3072;"):
        require_budget(Ranks(max_bytes=3071), dora)
    require_budget(Ranks(max_bytes=3072), dora)
    staged = replace(task.config, plan=Plan(stages="geometric(0.5)"), ranks=Ranks(max_bytes=2000))
    with pytest.raises(InputError, match=r"one stage must train them all; plan.stages=geometric\(0.5\) has \d"):
        replace(task, config=staged).optimizer()


def test_every_array_of_the_state_has_a_rule_of_a_mesh(tiny):
    model = model_of(tiny)
    optimizer = budgeted(Ranks(max_bytes=4000), model, 10)(optax.adam(1e-3))
    state = first_state(model.init(jax.random.key(0)), optimizer, keep_start=True)
    names = {parameter_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    assert "adapter.lora.0.attention/query" in names, "which ranks are left"
    for name, shape in names.items():
        assert not (name and shape) or axes_of(Mesh(fsdp=8), name, shape) is not None
