"""Dropped tokens against a formula in NumPy, row by row; where they are refused."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.costs import forward
from adapters.forward import forward_program
from adapters.graft import Graft
from adapters.hooks import GraftHooks
from adapters.model import GraftModel
from adapters.specs import Classification, Ladder, Lora, Probe, TokenTagging
from backbone.errors import InputError
from backbone.network.dropping import Drop, kept
from backbone.network.encoder import Network
from tests.grafts import LABELS, nonzero
from tests.tiny import SPEC, rows

METHODS = {
    "lora above": (Lora(rank=2, blocks="2:"),),
    "lora in every block": (Lora(rank=2),),
    "probe of three boundaries": (Probe(boundaries=(0, 2, 3)),),
    "unit probe": (Probe(boundaries=(1, 3), unit=True),),
}
DROPS = {"one": (Drop(1, 6),), "two": (Drop(1, 9), Drop(2, 5))}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for text, _ in rows(12)]


def graft_of(tiny, methods, drops, pooling="mean", seed=3) -> Graft:
    model = GraftModel(tiny.network, methods, Classification(pooling), LABELS, drops=drops)
    return Graft(model, nonzero(model, seed), tiny, 48)


def attention_received(graft: Graft, hidden: np.ndarray, block: int) -> np.ndarray:
    """The attention that each token of one row receives, [T], with LoRA at the query and the value."""
    weights = graft.backbone.params["blocks"][str(block)]["attention"]["qkv"]
    qkv = hidden @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
    query, key, _ = np.split(qkv, 3, axis=-1)
    leaves = graft.params.get("adapter", {}).get("lora", {}).get(str(block), {}).get("attention/query")
    if leaves is not None:
        settings = graft.model.site_parts["lora"][1]
        (scale,) = {setting.scale for site, setting in settings.items() if site.block == block}
        query = query + scale * hidden @ np.asarray(leaves["a"]) @ np.asarray(leaves["b"])
    depth = SPEC.width // SPEC.heads
    total = np.zeros(len(hidden))
    for head in range(SPEC.heads):
        part = slice(head * depth, (head + 1) * depth)
        scores = query[:, part] @ key[:, part].T / depth**0.5
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        total += (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0)
    return total


def logits_alone(graft: Graft, ids: np.ndarray) -> np.ndarray:
    """Logits of one row without padding, each drop as its definition says."""
    network, params, whole = graft.backbone.network, graft.backbone.params, replace(graft.model, drops=())
    hidden = network.embed(params, {"ids": jnp.asarray(ids[None])})
    pooled = {0: np.asarray(hidden)[0].mean(axis=0)}
    for block in range(SPEC.blocks):
        received = attention_received(graft, np.asarray(hidden)[0], block)
        mask = jnp.ones(hidden.shape[:2], bool)
        _, hidden = _one_block(whole, graft, hidden, mask, block)
        pooled[block + 1] = np.asarray(hidden)[0].mean(axis=0)
        for drop in graft.model.drops:
            if drop.boundary == block + 1 and drop.keep < len(received):
                middle = np.argsort(-received[1:-1], kind="stable")[: drop.keep - 2] + 1
                stays = np.sort([0, *middle, len(received) - 1])
                hidden = hidden[:, stays]
    method = graft.model.feature_method
    parts = [pooled[tap] for tap in graft.model.taps]
    if method is not None and method.unit:
        parts = [part / np.linalg.norm(part) / len(parts) ** 0.5 for part in parts]
    head = graft.params["head"]
    return np.concatenate(parts) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def _one_block(model, graft, hidden, mask, block):
    hooks = GraftHooks(model.site_parts, graft.params.get("adapter", {})) if model.site_parts else None
    run = graft.backbone.network.run_blocks(
        graft.backbone.params, hidden, mask, hooks, start=block, stop=block + 1, taps=(block + 1,)
    )
    return block, run[0]


@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_logits_are_those_of_the_definition(tiny, texts, methods, drops):
    graft = graft_of(tiny, methods, drops)
    encoded = graft.encode(texts)
    lengths = [len(row) for row in encoded]
    assert min(lengths) < 9 < max(lengths), "some rows lose no token at the first boundary, some do"
    computed = graft.logits_of_rows(encoded)
    alone = np.stack([logits_alone(graft, row) for row in encoded])
    np.testing.assert_allclose(computed, alone, rtol=2e-4, atol=2e-4)
    whole = replace(graft, model=replace(graft.model, drops=())).logits_of_rows(encoded)
    assert np.abs(whole - computed).max() > 1e-3, "dropping changes something"


@pytest.mark.parametrize("pooling", ["mean", "first", "attention"])
def test_one_program_gives_what_block_by_block_gives(tiny, texts, pooling):
    graft = graft_of(tiny, METHODS["lora above"], DROPS["two"], pooling)
    ids = np.zeros((4, 48), np.int32)
    mask = np.zeros((4, 48), bool)
    for place, row in enumerate(graft.encode(texts)[:4]):
        ids[place, : len(row)], mask[place, : len(row)] = row, True
    whole = forward_program(graft.model)(tiny.params, graft.params, ids, mask)
    np.testing.assert_allclose(graft.logits_of_rows(graft.encode(texts)[:4]), whole, rtol=1e-4, atol=1e-5)


def test_rows_of_few_tokens_lose_none(tiny, texts):
    graft = graft_of(tiny, METHODS["lora above"], (Drop(1, 40),))
    whole = replace(graft, model=replace(graft.model, drops=()))
    np.testing.assert_allclose(graft.logits(texts), whole.logits(texts), rtol=1e-5, atol=1e-6)


def test_both_ends_stay_in_order_whatever_they_receive():
    scores = jnp.array([[0.0, 3.0, 1.0, 2.0, 0.0, 9.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.0]])
    mask = jnp.array([[True] * 5 + [False], [True] * 6])
    np.testing.assert_array_equal(kept(scores, mask, 4), [[0, 1, 3, 4], [0, 3, 4, 5]])


def test_operations_are_counted_where_tokens_are_gone(tiny):
    methods = METHODS["lora above"]
    whole, fewer = (GraftModel(tiny.network, methods, Classification(), LABELS, drops=d) for d in ((), (Drop(1, 12),)))
    ratio = forward(fewer, 1, 48).flops / forward(whole, 1, 48).flops
    counted = [
        jax.jit(lambda ids, mask, m=m: m.logits(tiny.params, nonzero(m), {"ids": ids, "mask": mask}))
        .lower(jax.ShapeDtypeStruct((8, 48), "int32"), jax.ShapeDtypeStruct((8, 48), "bool"))
        .compile()
        .cost_analysis()["flops"]
        for m in (fewer, whole)
    ]
    assert ratio == pytest.approx(counted[0] / counted[1], rel=0.1)  # choosing tokens is not counted
    assert ratio < 0.6


def test_attention_is_computed_once_for_states_and_scores(tiny):
    """In the compiled block, the weights that the states need are those by which tokens are chosen."""
    network, shapes = tiny.network, (jnp.zeros((8, 48, SPEC.width)), jnp.ones((8, 48), bool))
    plain = jax.jit(lambda h, m: network.run_blocks(tiny.params, h, m, start=1, stop=2)).lower(*shapes).compile()
    scored = jax.jit(lambda h, m: network.run_scored(tiny.params, h, m, block=1)).lower(*shapes).compile()
    assert scored.as_text().count("exponential(") == plain.as_text().count("exponential(")
    assert scored.cost_analysis()["flops"] < 1.05 * plain.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("drops", "options", "message"),
    [
        ((Drop(3, 6),), {}, r"^drops: boundary 3 is not below 3, the last that the graft reads"),
        ((Drop(1, 6), Drop(2, 6)), {}, r"^drops: boundaries must ascend, and fewer tokens stay at each"),
        ((Drop(2, 6), Drop(1, 5)), {}, r"^drops: boundaries must ascend"),
        ((Drop(1, 6),), {"head": TokenTagging()}, r"^drops: head.kind=token_tagging .* needs every token"),
        ((Drop(1, 6),), {"head": Classification(pair="cross")}, r"^drops: .* with pair=cross needs every token"),
        ((Drop(1, 6),), {"methods": (Ladder(),)}, r"^drops: ladder reads the states of every token"),
        ((Drop(1, 6),), {"spec": replace(SPEC, rotary_theta=1e4)}, r"^drops: the attention .* rotary positions"),
    ],
)
def test_where_tokens_are_needed_none_is_dropped(drops, options, message):
    network = Network(options.get("spec", SPEC))
    with pytest.raises(InputError, match=message):
        GraftModel(network, options.get("methods", ()), options.get("head", Classification()), LABELS, drops=drops)


@pytest.mark.parametrize("values", [(0, 8), (1, 3)])
def test_a_drop_has_a_boundary_and_tokens(values):
    with pytest.raises(InputError, match=r"^drops: from boundary 1 on, and at least 4 tokens stay"):
        Drop(*values)
