"""Early exits in the runtime: the same answers as without splitting, whoever shares the batch; nothing compiles.

The reference is each graft on its own (`Graft.early_logits_of_rows`), which
tests/trainers/extras/test_early_exits.py holds against a computation by hand.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from adapters.graft import Graft
from adapters.specs import Ladder, Lora
from backbone.errors import InputError
from serving.bank import Envelope, Group
from serving.batching import NO_GROUP
from serving.runtime import Runtime
from tests.serving.grafts import BOUNDARIES, TEXTS, graft, held_up, with_exits
from tests.tiny import rows

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def grafts(tiny) -> dict[str, Graft]:
    """Bare states below every exit, adapted ones above block 0 and 1, taps at all boundaries, and two without exits."""
    whole, upper = Lora(rank=2, alpha=4.0), Lora(rank=2, alpha=4.0, blocks="2:")
    return {
        "head only": with_exits(graft(tiny, None, seed=1), 1),
        "lora": with_exits(graft(tiny, whole, seed=2), 2),
        "lora too": with_exits(graft(tiny, whole, labels=5, seed=3), 3),
        "top": with_exits(graft(tiny, upper, seed=4), 4),
        "ladder": with_exits(graft(tiny, Ladder(reduction=4), seed=5), 5),
        "elsewhere": with_exits(graft(tiny, whole, seed=6), 6, boundaries=(2,)),
        "none": graft(tiny, whole, seed=7),
        "none, head only": graft(tiny, None, seed=8),
    }


@pytest.fixture(scope="module")
def runtime(tiny, grafts):
    envelope = Envelope.around([one.model for one in grafts.values()], slots=8, labels=5, exits=BOUNDARIES)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(3, 8), max_wait=0.0) as made:
        for name, one in grafts.items():
            made.load(name, one)
        yield made


def asked_together(runtime: Runtime, asked, submodel: str):
    runtime.submodel = submodel
    gate = held_up(runtime)
    pending = runtime.submit(asked)
    gate.set()
    return [(one.future.result(120), one.answer(0)) for one in pending]


def reference(one: Graft, text: str) -> tuple[np.ndarray, int]:
    logits, place = one.early_logits_of_rows(one.encode([text]))
    return logits[0], int(place[0])


def check(runtime: Runtime, grafts: dict[str, Graft], asked) -> set[str]:
    found = set()
    for (name, text), (row, answer) in zip(asked, asked_together(runtime, asked, "exits"), strict=True):
        one = grafts[name]
        wanted, place = (one.logits([text])[0], 3) if one.exits is None else reference(one, text)
        assert answer.submodel == ("full" if place == 3 else f"exit:{place}"), (name, text)
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=TOLERANCE, err_msg=f"{name}: {text}")
        assert answer.label == one.model.labels[int(wanted.argmax())]
        found.add(answer.submodel)
    return found


@pytest.mark.parametrize("name", ["head only", "lora", "top", "ladder", "elsewhere"])
def test_a_batch_of_one_graft(runtime, grafts, name):
    found = check(runtime, grafts, [(name, text) for text in TEXTS])
    assert found == {f"exit:{b}" for b in grafts[name].exits.boundaries} | {"full"}


def test_a_mixed_batch_in_every_order(runtime, grafts):
    """All grafts, some texts asked of several: inputs are shared, and an input stays while any row needs it."""
    asked = [(name, TEXTS[(i + j) % 5]) for j in range(4) for i, name in enumerate(grafts)]
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(asked))
        check(runtime, grafts, [asked[i] for i in order])


def test_rows_without_a_graft_share_the_batch(runtime, grafts):
    runtime.submodel = "full"
    wanted = runtime.features(TEXTS[:2])
    from backbone.buckets import bucket_of
    from serving.batching import Queued

    runtime.submodel = "exits"
    plain = [Queued(bucket_of(len(ids), (24,)), ids, NO_GROUP, 0) for ids in grafts["lora"].encode(TEXTS[:2])]
    gate = held_up(runtime)
    pending = runtime.submit([("head only", text) for text in TEXTS[:6]])
    runtime._batcher.reserve(2)
    for row in plain:
        runtime._batcher.put(row)
    gate.set()
    for text, one in zip(TEXTS, pending, strict=False):
        np.testing.assert_allclose(one.future.result(60)[:3], reference(grafts["head only"], text)[0], atol=TOLERANCE)
    np.testing.assert_allclose([row.future.result(60) for row in plain], wanted, atol=TOLERANCE)


def test_work_is_saved_and_counted(runtime, grafts):
    """All leave at the first exit: nothing runs above it."""
    eager = replace(grafts["lora"], exits=replace(grafts["lora"].exits, threshold=0.0))
    runtime.load("eager", eager)
    before, answered = runtime.counts.padded_rows, runtime.answered_by["exit:1"]
    found = asked_together(runtime, [("eager", text) for text in TEXTS[:8]], "exits")
    assert {answer.submodel for _, answer in found} == {"exit:1"}
    assert runtime.answered_by["exit:1"] - answered == 8
    assert runtime.counts.padded_rows - before == 8, "one segment of eight rows"
    runtime.remove("eager")


def test_full_answers_with_all_blocks(runtime, grafts):
    for name in ("head only", "lora", "top"):
        for row, answer in asked_together(runtime, [(name, text) for text in TEXTS[:3]], "full"):
            assert answer.submodel == "full"
            assert np.isfinite(row).all()
        wanted = grafts[name].logits(TEXTS[:1])[0]
        np.testing.assert_allclose(
            asked_together(runtime, [(name, TEXTS[0])], "full")[0][0][: len(wanted)], wanted, atol=TOLERANCE
        )


def test_exits_are_used_together_or_not_at_all(tiny, grafts):
    """A threshold holds for all exits together: where a batch is split at one of two, none is used."""
    envelope = Envelope((Group((Lora(rank=2),), slots=2),), labels=5, exits=(2,))
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(4,)) as runtime:
        runtime.load("lora", grafts["lora"])
        runtime.load("elsewhere", grafts["elsewhere"])
        asked = [(name, text) for text in TEXTS for name in ("lora", "elsewhere")]
        found = {name: set() for name, _ in asked}
        for (name, _), (_, answer) in zip(asked, asked_together(runtime, asked, "exits"), strict=True):
            found[name].add(answer.submodel)
    assert found == {"lora": {"full"}, "elsewhere": {"full", "exit:2"}}


def test_nothing_compiles_once_it_is_ready(runtime, grafts):
    compiled: list[str] = []
    jax.block_until_ready([one.params for one in grafts.values()])
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    texts = [text for text, _ in rows(40, seed=5)]
    for turn, submodel in enumerate(("exits", "full", "exits", "exits")):
        runtime.load("lora", grafts["lora"], version=str(turn))
        asked_together(
            runtime, [(name, texts[(turn + i) % 40]) for i in range(3 * turn + 1) for name in grafts], submodel
        )
    assert compiled == []
    jax.jit(lambda x: x * 2.75 + len(compiled))(np.ones(19)).block_until_ready()
    assert compiled


def test_what_an_envelope_refuses(tiny):
    for wrong in ((2, 1), (0, 1)):
        with pytest.raises(InputError, match="exits"):
            Envelope((Group((Lora(rank=2),)),), exits=wrong)
    with pytest.raises(InputError, match="boundary 3 is not below the last of 3"):
        Runtime(tiny, Envelope((Group((Lora(rank=2),)),), exits=(3,)), buckets=(24,), batch_sizes=(1,))
    both = Envelope((Group((Lora(rank=2, blocks="2:"), Ladder(reduction=4))),), exits=(2,))
    with Runtime(tiny, both, buckets=(24,), batch_sizes=(1,)):
        pass
    low = Envelope((Group((Lora(rank=2), Ladder(reduction=4))),), exits=(2,))
    with pytest.raises(InputError, match="cannot be split at 2"):
        Runtime(tiny, low, buckets=(24,), batch_sizes=(1,))
