"""States below the live blocks: what is exact, what is shared, what is computed again, and how much is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import backbone.cache as cache_module
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Ladder, Lora, TokenTagging
from backbone.buckets import Sides
from backbone.cache import stored_bytes
from backbone.files import sha256_file
from backbone.trees import map_leaves, unflatten
from tests.command import call, same
from tests.home import linked
from tests.trainers.training import assert_same, trained
from trainers.config import Stage
from trainers.data.batches import Examples, part_of
from trainers.fitting.cached_states import Boundaries, CachedPrefix, prefix_id


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


@pytest.mark.parametrize("stages", ["geometric(0.5)", "top(1)", (Stage("", until_epoch=1), Stage("none"))])
@pytest.mark.cpu_bits
def test_a_ladder_that_reads_below_a_boundary_is_not_fed_from_it(stages, task, tmp_path):
    ladder = GraftModel(task.backbone.network, (Ladder(),), Classification(), task.model.labels)
    side = replace(task, model=ladder)
    plain, _ = trained(side, tmp_path / "a")
    staged, progress = trained(side, tmp_path / "b", stages=stages)
    assert not any(stage.cached for stage in progress.stages)
    if isinstance(stages, str):  # a side network is live to the end
        assert_same(plain, staged)


@pytest.mark.cpu_bits
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


@pytest.mark.cpu_bits
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
    stronger = GraftModel(tiny.network, (Lora(rank=2, alpha=64.0),), Classification(), ("a", "b"))
    assert prefix_id(stronger, adapter, 2) != below, "the same leaves act in another way"
    upper = {"lora": {block: sites for block, sites in adapter["lora"].items() if block == "2"}}
    assert prefix_id(model, upper, 2) == "none", "block 2 reads the states, and does not make them"


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


@pytest.mark.parametrize("content", ["", "{}", "5"])
@pytest.mark.cpu_bits
def test_a_damaged_description_costs_its_rows_and_nothing_else(content, config, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPGRAFT_HOME", str(linked(tmp_path / "home")))
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


@pytest.mark.parametrize("head", [Classification(pair="two_tower"), TokenTagging()], ids=lambda h: h.kind)
def test_cached_states_give_the_same_logits(head, tiny, tmp_path):
    draw = np.random.default_rng(0)
    plain = [draw.integers(5, tiny.spec.vocabulary, n).astype(np.int32) for n in (4, 7, 11, 5, 6, 10, 8, 3)]
    given = [Sides(a, b) for a, b in zip(plain, plain[3:], strict=False)] if head.pair == "two_tower" else plain
    model = GraftModel(tiny.network, (Lora(rank=2, blocks="2:"),), head, ("a", "b", "c"))
    params = map_leaves(lambda x: 0.3 * draw.normal(size=x.shape).astype(np.float32), model.abstract())
    examples = Examples(list(given), np.zeros(len(given), np.int32), tiny.lengths)
    store = Boundaries(model, tiny, {}, tmp_path / "cache", "float32", 2**30)
    assert store.fill([examples], (2,), pooled=head.pair == "two_tower") == len(given)
    assert Boundaries(model, tiny, {}, tmp_path / "cache", "float32", 2**30).fill([examples], (2,)) == 0
    wanted = Graft(model, params, tiny, 16).logits_of_rows(given)
    found = store.logits(params, examples, (2,))
    assert found.shape == wanted.shape
    for i, row in enumerate(given):
        real = slice(len(row)) if head.pair == "none" else slice(None)
        np.testing.assert_allclose(found[i][real], wanted[i][real], atol=2e-5)
    if head.pair == "two_tower":
        pooled = store.pooled(examples)
        assert pooled.shape == (len(given), tiny.spec.blocks + 1, 4 * tiny.spec.width)
        head_only = {"adapter": {}, "head": params["head"]}
        last = Graft(GraftModel(tiny.network, (), head, model.labels), head_only, tiny, 16).logits_of_rows(given)
        np.testing.assert_allclose(pooled[:, -1] @ params["head"]["kernel"] + params["head"]["bias"], last, atol=5e-5)


def test_pooled_states_are_of_their_pooling(task, tmp_path):
    def store(pooling: str) -> Boundaries:
        model = GraftModel(task.backbone.network, (), Classification(pooling=pooling), task.model.labels)
        return Boundaries(model, task.backbone, {}, tmp_path, "float32", 2**30)

    mean = store("mean")
    assert mean.fill([task.train], (), pooled=True) > 0
    first = store("first")
    assert not first.has_pooled(task.train)
    first.fill([task.train], (), pooled=True)
    assert np.abs(first.pooled(task.train) - mean.pooled(task.train)).max() > 1e-3
    assert store("attention").has_pooled(task.train), "attention begins as the mean"


@pytest.mark.cpu_bits
def test_a_row_alone_has_the_bits_of_a_row_among_others(task, tmp_path):
    """In batches of `SAMPLE` rows, which hold 192 tokens here; below 128, this backbone's products add up otherwise."""
    long = part_of(task.train, np.flatnonzero(task.train.buckets == 24))
    together = Boundaries(task.model, task.backbone, {}, tmp_path / "together", "float32", 2**30)
    assert together.fill([long], (2,)) > 8
    for number in range(0, len(long), 5):
        alone = Boundaries(task.model, task.backbone, {}, tmp_path / f"alone {number}", "float32", 2**30)
        one = part_of(long, np.array([number]))
        assert alone.fill([one], (2,)) == 1
        np.testing.assert_array_equal(*(store.padded(2, one.rows, 24) for store in (alone, together)))
