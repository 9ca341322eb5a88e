"""Lean networks in a config: what the configs cost beside the plain one, families, first weights, refusals, runs."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from adapters.block_counts import block_forward, embedding_forward
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.network.local_start import start_locally
from backbone.records import encode
from backbone.storage import load_backbone
from backbone.trees import count
from tests.tiny import COMPACT, tokenizer_json
from tests.trainers.pretraining.backbone_runs import call, counted_as_compiled, paragraphs, settings, task_of
from trainers.config.load import load_as
from trainers.pretraining.config import BackboneConfig, NewBert, NewVit
from trainers.pretraining.loop import BackboneTask


def sizes(name: str) -> tuple[int, float]:
    """Scalars of a config's backbone, and operations of a forward pass with its head on 8 rows."""
    config = load_as(BackboneConfig, name)
    tokens = config.corpus.tokens
    network = Network(config.network._spec(8000, tokens))
    rows = {"ids": np.zeros((8, tokens), np.int32)}
    material = replace(task_of("masked_tokens").material, network=network, splits={"train": rows})
    work = network.spec.blocks * block_forward(network.spec, 8, tokens) + embedding_forward(network.spec, 8, tokens)
    return count(network.abstract()), (work + config.objective.head_cost(material, 8)).flops


@pytest.mark.parametrize(
    ("name", "equal"),
    [
        ("shared_bytes", {"bytes"}),
        ("shared_flops", {"flops"}),
        ("factorised_bytes", {"bytes"}),
        ("factorised_flops", {"flops"}),
        ("grouped_query", {"bytes", "flops"}),
        ("low_rank", {"bytes", "flops"}),
    ],
)
def test_a_config_costs_what_it_says_beside_the_plain_one(name, equal):
    ours, plain = (dict(zip(("bytes", "flops"), sizes(one), strict=True)) for one in (name, "text_mlm"))
    for what, cost in ours.items():
        assert (abs(cost / plain[what] - 1) < 0.015) == (what in equal), f"{what}: {cost / plain[what]:.3f}"


@pytest.mark.parametrize(
    ("network", "family"),
    [
        (NewBert(), "bert"),
        (NewBert(activation="squared_relu"), "bert"),
        (NewBert(groups=2, embedding_width=64), "albert"),
        (NewBert(groups=2, embedding_width=64, kv_heads=1), ""),
        (NewBert(groups=2), ""),
        (NewBert(embedding_width=64), ""),
        (NewBert(norm_function="rms"), ""),
        (NewBert(norm="pre"), ""),
        (NewBert(rotary_theta=1e4), ""),
        (NewVit(), "vit"),
        (NewVit(groups=1), ""),
    ],
)
def test_weights_have_the_layout_of_a_published_family_or_none(network, family):
    assert network.family() == family


def test_a_default_is_no_part_of_a_stored_config():
    assert set(encode(NewBert())) == {"kind", "blocks", "width", "heads", "mlp_width", "first_weights"}
    assert encode(NewBert(groups=2))["groups"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 3}, "groups: 3 does not divide 4 blocks"),
        ({"kv_heads": 3}, "kv_heads: 3 does not divide 4 heads"),
        ({"mlp_rank": 256}, "mlp_rank: 256 is no low rank; it must be below 256"),
        ({"embedding_width": 32, "first_weights": "local"}, "local needs embeddings as wide as a head of 64"),
        ({"rotary_theta": 1e4, "first_weights": "local"}, "local needs learned positions"),
    ],
)
def test_networks_that_cannot_be_are_refused_before_anything_is_read(fields, message):
    with pytest.raises(InputError, match=message):
        NewBert(**fields)


def test_heads_of_a_lean_network_begin_at_their_offsets():
    spec = replace(COMPACT, groups=1, width=128, embedding_width=64, norm_function="layer")
    params = start_locally(spec, Network(spec).init(0))
    network, heads, tokens = Network(spec), spec.heads, 24
    ids = np.random.default_rng(0).integers(5, spec.vocabulary, (8, tokens))
    hidden = np.asarray(network.embed(params, {"ids": ids}))
    qkv, size = params["blocks"]["0"]["attention"]["qkv"], spec.width // heads
    x = hidden @ np.asarray(qkv["kernel"]) + np.asarray(qkv["bias"])
    inner = np.arange(4, tokens - 4)
    for head, offset in enumerate((-1, 1, -2, 2)):
        q = x[..., head * size : (head + 1) * size]
        of = spec.width + head // 2 * size
        scores = (q @ x[..., of : of + size].transpose(0, 2, 1)).mean(axis=0)
        assert np.mean(scores[inner].argmax(axis=-1) == inner + offset) > 0.9, f"head {head} looks at {offset}"


def test_counted_work_of_a_lean_run_is_that_of_the_compiler():
    task = task_of("masked_tokens")
    network = Network(replace(COMPACT, blocks=2, groups=1))
    counted_as_compiled(BackboneTask(task.config, replace(task.material, network=network)))


def test_a_lean_run_trains_to_a_backbone_of_its_kind(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n\n".join(paragraphs(120)))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    lean = ("groups=2", "embedding_width=16", "kv_heads=1", "mlp_rank=8", "norm_function=rms", "norm=pre", "mlp=gated")
    sized = ("blocks=2", "width=32", "heads=2", "mlp_width=64", "rotary_theta=10000", "activation=silu")
    (tmp_path / "config.py").write_text(
        "from trainers.pretraining.config import *\n\n"
        "def get_config():\n    return BackboneConfig(tokenizer=TokenizerFile('tokenizer.json'))\n"
    )
    run = ("corpus.files=corpus.txt", "corpus.tokens=32", "corpus.held_out_fraction=0.1", "steps=3", "batch_size=4")
    fields = settings(*run, *(f"network.{value}" for value in (*sized, *lean)))
    status, _, err = call("train-backbone", "config.py", *fields, "--workdir", "run", "--quiet", capsys=capsys)
    assert status == 0, err
    backbone = load_backbone("run/backbone")
    assert backbone.spec.kv_width == 16
    assert backbone.source["family"] == ""
    assert sorted(jax.tree.map(np.shape, backbone.params)["blocks"]) == ["0", "1"]
    status, _, err = call("export-backbone", "run", "--format", "hf", "--out", "hf", capsys=capsys)
    assert (status, "family '' cannot be exported" in err) == (2, True), err
