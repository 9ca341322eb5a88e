"""The runtime: a mixed batch equals each request alone, swaps harm nobody, nothing compiles after the start.

The reference is each graft on its own: its model run operation by operation on one text.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import jax
import numpy as np
import pytest

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Lora, MultiLabel
from backbone.buckets import pad
from backbone.errors import InputError
from serving.answers import NotFinite
from serving.bank import Envelope, Group
from serving.batching import Batcher, Closed, DeadlineExceeded, Overloaded, Queued
from serving.prefix_cache import PrefixCache
from serving.programs import MAX_CALL_ROWS, cover
from serving.residency import Served
from serving.runtime import Runtime, UnknownTask
from tests.methods import METHODS
from tests.serving.grafts import TEXTS, graft, held_up

TOLERANCE = 1e-4  # largest difference of a logit in float32 on CPU, logits of size 1 to 30
# one of each method: every other row of the suite would be one more program to compile
KINDS = ["lora", "pfeiffer", "ia3", "dora", "vera", "ssf", "bias", "norm", "prefix", "router", "probe", "ladder top"]


def alone(one: Graft, text: str) -> np.ndarray:
    """Logits of one text by the graft's own model, operation by operation: no bank, no batch, no program."""
    ids, mask = pad(one.encode([text]), 24)
    return np.asarray(one.model.logits(one.backbone.params, one.params, {"ids": ids, "mask": mask}))[0]


def logits(runtime: Runtime, asked) -> list[np.ndarray]:
    """Of rows that are all queued before the first of them runs, however busy the machine is."""
    gate = held_up(runtime)
    pending = runtime.submit(asked)
    gate.set()
    return [one.future.result(120) for one in pending]


@pytest.fixture(scope="module")
def grafts(tiny) -> dict[str, Graft]:
    """Every method of the suite; narrower and other-headed ones that share a group with them."""
    made = {}
    for seed, name in enumerate(KINDS):
        spec = METHODS[name]
        made[name] = graft(tiny, spec, seed=seed)
        made[f"{name}, many labels"] = graft(tiny, spec, MultiLabel(threshold=0.3), labels=7, seed=100 + seed)
    made["lora narrow"] = graft(tiny, Lora(rank=1, alpha=5.0), labels=2, seed=50)
    made["lora upper"] = graft(tiny, Lora(rank=3, alpha=9.0, blocks="2:"), labels=5, seed=51)
    made["pfeiffer narrow"] = graft(tiny, Bottleneck(width=2, activation="gelu"), labels=4, seed=52)
    return made


@pytest.fixture(scope="module")
def mixed(tiny, grafts):
    """One group for each kind of graft."""
    envelope = Envelope.around([one.model for one in grafts.values()], slots=8, labels=9)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(16,), max_wait=0.05) as runtime:
        for name, one in grafts.items():
            runtime.load(name, one)
        yield runtime


@pytest.fixture(scope="module")
def small(tiny):
    """One group of two slots above block 1, one bucket, for lifecycles."""
    envelope = Envelope((Group((Lora(rank=4, blocks="1:"),), slots=2),), labels=8)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(1, 8), max_wait=0.0, max_waiting=64) as runtime:
        yield runtime


def upper(tiny, seed: int, rank: int = 2, labels: int = 3) -> Graft:
    return graft(tiny, Lora(rank=rank, alpha=4.0, blocks="1:"), labels=labels, seed=seed)


def test_a_mixed_batch_equals_each_request_alone(mixed, grafts):
    """Every method, rank, head kind and label count, three texts each, in shared batches."""
    asked = [(name, TEXTS[(i + j) % len(TEXTS)]) for i, name in enumerate(grafts) for j in range(3)]
    before = mixed.counts.batches
    found = logits(mixed, asked)
    assert mixed.counts.batches - before < len(asked) / 4, "rows shared batches"
    for (name, text), row in zip(asked, found, strict=True):
        wanted = alone(grafts[name], text)
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=TOLERANCE, err_msg=f"{name}: {text}")


def test_answers_are_labels_and_probabilities(mixed, grafts):
    for name, rule in (
        ("lora", lambda x: (np.exp(x) / np.exp(x).sum(), [int(x.argmax())])),
        ("lora, many labels", lambda x: (1 / (1 + np.exp(-x)), np.flatnonzero(1 / (1 + np.exp(-x)) >= 0.3).tolist())),
    ):
        (answer,) = mixed.predict([(name, TEXTS[0])])
        probabilities, chosen = rule(alone(grafts[name], TEXTS[0]).astype(float))
        assert answer.labels == tuple(f"l{i}" for i in chosen)
        assert [answer.probabilities[f"l{i}"] for i in range(len(probabilities))] == pytest.approx(
            probabilities.tolist(), abs=1e-4
        )
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values(), reverse=True)
        assert (answer.task, answer.version, answer.submodel) == (name, "1", "full")


def test_one_input_asked_of_many_grafts_runs_once_below(mixed, grafts):
    tops = [name for name in grafts if "probe" in name or "ladder" in name or "top" in name or "upper" in name]
    before = mixed.counts.inputs
    found = logits(mixed, [(name, TEXTS[0]) for name in tops[:6]])
    assert mixed.counts.inputs - before == 1
    for name, row in zip(tops, found, strict=False):
        wanted = alone(grafts[name], TEXTS[0])
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=TOLERANCE)


def test_rows_without_a_graft_run_the_bank_free_program(mixed, tiny):
    before = mixed.counts.plain_batches
    found = mixed.features(TEXTS[:3])
    plain = GraftModel(tiny.network, (), Classification(), ("x",))
    reference = Graft(plain, {"adapter": {}, "head": {"kernel": np.eye(32, 1), "bias": np.zeros(1)}}, tiny, 48)
    np.testing.assert_allclose(found[:, 0], [alone(reference, text)[0] for text in TEXTS[:3]], atol=TOLERANCE)
    assert mixed.counts.plain_batches > before


def test_nothing_compiles_once_it_is_ready(small, tiny):
    """Loads, swaps, removals and every kind of batch; a compilation beside them shows that the count counts."""
    compiled: list[str] = []
    grafts = [upper(tiny, seed, rank, labels) for seed, (rank, labels) in enumerate([(1, 2), (4, 8), (2, 3)])]
    jax.block_until_ready([one.params for one in grafts])
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    for turn in range(6):
        small.load(f"t{turn % 3}", grafts[turn % 3], version=str(turn))
        small.predict([(f"t{turn % 3}", text) for text in TEXTS[: turn + 3]])
    small.features(TEXTS[:2])
    for turn in range(3):
        small.remove(f"t{turn}")
    assert compiled == []
    jax.jit(lambda x: x * 3.25 + len(compiled))(np.ones(17)).block_until_ready()
    assert compiled
    with pytest.raises(UnknownTask, match="no task 't0' is served"):
        small.predict([("t0", "x")])


def test_a_slot_that_held_another_equals_a_fresh_bank(small, tiny):
    wide, narrow = upper(tiny, 1, rank=4, labels=8), upper(tiny, 2, rank=1, labels=2)
    for number in range(2):
        small.load(f"wide{number}", wide if number else upper(tiny, 3, rank=4, labels=8))
    for number in range(2):
        small.remove(f"wide{number}")
    small.load("narrow", narrow)
    used = logits(small, [("narrow", text) for text in TEXTS])
    with Runtime(tiny, small.envelope, buckets=(24,), batch_sizes=(1, 8)) as fresh:
        fresh.load("narrow", narrow)
        for row, other in zip(used, logits(fresh, [("narrow", text) for text in TEXTS]), strict=True):
            np.testing.assert_allclose(row, other, atol=1e-6)
            assert not row[2:].any(), "the padding of the head is zero again"


def test_more_grafts_than_slots_are_evicted_and_come_back(small, tiny):
    grafts = {f"many{seed}": upper(tiny, seed) for seed in range(5)}
    for name, one in grafts.items():
        small.load(name, one)
    before = small.residency.evictions["slots"]
    asked = [(name, text) for text in TEXTS[:3] for name in grafts]
    for (name, text), row in zip(asked, logits(small, asked), strict=True):
        np.testing.assert_allclose(row[:3], alone(grafts[name], text), atol=TOLERANCE)
    assert small.residency.evictions["slots"] > before
    assert small.residency.slots_used == [2]


def test_a_graft_is_loaded_once_however_many_ask(small, tiny):
    one, started, release, loads = upper(tiny, 77), threading.Event(), threading.Event(), []

    def load() -> Graft:
        loads.append(1)
        started.set()
        assert release.wait(60)
        return one

    small.load("beside", upper(tiny, 78))
    small.offer(Served("slow", "1", "slow-content", load))
    waiting = small.submit([("slow", text) for text in TEXTS[:5]])
    assert started.wait(60)
    assert small.predict([("beside", TEXTS[0])])[0].task == "beside", "a load holds nobody else up"
    release.set()
    for text, pending in zip(TEXTS, waiting, strict=False):
        np.testing.assert_allclose(pending.future.result(60)[:3], alone(one, text), atol=TOLERANCE)
    assert len(loads) == 1


def test_a_swap_under_load_mixes_and_drops_nothing(small, tiny):
    """Rows bound to a version are answered by it, whatever is promoted meanwhile."""
    versions = {str(number): upper(tiny, 10 + number) for number in range(4)}
    small.load("swapped", versions["0"], version="0")
    seen, stop, failures = [], threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                seen.append((TEXTS[len(seen) % 5], *small.submit([("swapped", TEXTS[len(seen) % 5])])))
                seen[-1][1].future.result(60)
            except Exception as error:  # noqa: BLE001 - collected and asserted on
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for number in range(1, 4):
        count = len(seen)
        while len(seen) < count + 5:
            time.sleep(0.001)
        small.load("swapped", versions[str(number)], version=str(number))
    count = len(seen)
    while len(seen) < count + 5:
        time.sleep(0.001)
    stop.set()
    thread.join()
    assert not failures
    assert {pending.served.version for _, pending in seen} == set(versions)
    expected = {(v, text): alone(one, text) for v, one in versions.items() for text in TEXTS[:5]}
    for text, pending in seen:
        wanted = expected[pending.served.version, text]
        np.testing.assert_allclose(pending.future.result()[:3], wanted, atol=TOLERANCE)


def test_a_graft_that_fails_to_load_harms_nobody(small, tiny):
    def broken() -> Graft:
        raise InputError("damaged")

    small.load("good", upper(tiny, 5))
    small.offer(Served("bad", "1", "bad-content", broken))
    bad, good = small.submit([("bad", TEXTS[0]), ("good", TEXTS[0])])
    with pytest.raises(InputError, match="damaged"):
        bad.answer(60)
    assert good.answer(60).task == "good"
    with pytest.raises(InputError, match="rank 5 exceeds the bank's 4"):
        small.load("good", upper(tiny, 6, rank=5))
    assert small.find("good").content_id == good.served.content_id, "a refused graft changes nothing"


def test_a_graft_with_values_that_overflow_fails_alone(small, tiny):
    huge = upper(tiny, 8)
    huge.params["head"]["kernel"] = huge.params["head"]["kernel"] * 1e38 * 1e3
    small.load("huge", huge)
    small.load("good", upper(tiny, 5))
    bad, good = small.submit([("huge", TEXTS[0]), ("good", TEXTS[0])])
    with pytest.raises(NotFinite):
        bad.answer(60)
    assert np.isfinite(good.future.result(60)).all()


def test_cancelled_rows_and_bad_rows_give_back_their_place(small, tiny):
    small.load("good", upper(tiny, 5))
    gate = held_up(small)
    pending = small.submit([("good", TEXTS[0])] * 3)
    assert pending[1].future.cancel()
    gate.set()
    assert pending[0].answer(60) == pending[2].answer(60)
    with pytest.raises(CancelledError):
        pending[1].answer()
    with pytest.raises(InputError, match=r"rows\[1\]"):
        small.submit([("good", "x"), ("good", 3)])
    assert small.waiting == 0
    assert all(seat.holders == 0 for seat in small.residency._seats.values())


def test_overload_and_deadlines(small, tiny):
    small.load("good", upper(tiny, 5))
    gate = held_up(small)
    late = small.submit([("good", TEXTS[0])], timeout=0.0)
    first = small.submit([("good", TEXTS[0])] * 60)
    with pytest.raises(Overloaded) as full:
        small.submit([("good", TEXTS[0])] * 10)
    assert full.value.retry_after > 0
    gate.set()
    assert len({pending.answer(60).label for pending in first}) == 1
    with pytest.raises(DeadlineExceeded):
        late[0].answer(60)
    assert small.waiting == 0


def test_a_cached_prefix_gives_the_same_logits(tiny):
    one = upper(tiny, 4)
    envelope = Envelope((Group((Lora(rank=4, blocks="1:"),), slots=1),), labels=3)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(4,), cache_bytes=1 << 20) as runtime:
        runtime.load("t", one)
        first, again = (logits(runtime, [("t", text) for text in TEXTS[:4]]) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert runtime.counts.prefix_hits > 0
    cache = PrefixCache(100)
    for key in range(5):
        cache.put((8, bytes([key])), {1: np.zeros(10, np.float32)})
    assert cache.bytes == 80
    assert cache.get((8, bytes([4])), [1]) is not None
    assert cache.get((8, bytes([0])), [1]) is None
    assert cache.get((8, bytes([4])), [2]) is None


def test_closing_answers_what_waits_and_takes_no_more(tiny):
    envelope = Envelope((Group((Lora(rank=4, blocks="1:"),), slots=2),), labels=8)
    runtime = Runtime(tiny, envelope, buckets=(24,), batch_sizes=(1, 8), max_wait=30.0)
    runtime.load("t", upper(tiny, 0))
    runtime.predict([("t", text) for text in TEXTS[:2]])  # so that the next ones wait for others
    waiting = runtime.submit([("t", text) for text in TEXTS[:3]])
    time.sleep(0.01)
    assert not any(pending.future.done() for pending in waiting)
    runtime.close()
    assert [pending.answer(0).task for pending in waiting] == ["t"] * 3
    with pytest.raises(Closed):
        runtime.submit([("t", TEXTS[0])])
    with pytest.raises(Closed):
        runtime.load("u", upper(tiny, 1))


def test_how_rows_are_covered():
    """Ten rows in sizes 1, 8, 32: 8 + 1 + 1 costs 10 rows and 3 calls, 32 costs 32."""
    assert cover(10, (1, 8, 32), 2.0) == (8, 1, 1)
    assert cover(7, (1, 8, 32), 2.0) == (8,)
    assert cover(31, (1, 8, 32), 2.0) == (32,)
    assert cover(64, (1, 8, 32), 2.0) == (32, 32)
    assert cover(0, (1, 8), 2.0) == ()
    assert cover(7, (1, 8, 32), 0.1) == (1,) * 7, "seven rows and calls cost 7.7, eight rows 8.1"
    assert cover(2, (1, 8, 32), 20.0) == (8,), "where a call costs as much as twenty rows"
    assert cover(9, (1, 8, 32), 0.0) == (8, 1), "of equal costs the fewest calls"
    assert cover(2000, (1, 8, 32), 1.0) == (32,) * 62 + (8,) * 2, "no recursion"


def test_distinct_inputs_fill_batches_at_the_least_cost_and_rows_of_one_input_share_it(tiny):
    """What a call costs is measured; here it is said, so that the batches are known."""
    envelope = Envelope((Group((Lora(rank=2, alpha=4.0, blocks="1:"),)),), labels=3)
    with Runtime(tiny, envelope, buckets=(24,), batch_sizes=(1, 8, 32)) as runtime:
        assert 0 <= runtime.programs.call_rows <= MAX_CALL_ROWS
        runtime.load("t", upper(tiny, 1))
        alone = [runtime.predict([("t", text)])[0] for text in TEXTS[:3]]
        for call_rows, batches, passes in ((0.0, 3, 3), (20.0, 1, 8)):
            runtime.programs.call_rows = call_rows
            before = runtime.counts.batches, runtime.counts.padded_rows
            answers = runtime.predict([("t", text) for text in TEXTS[:3]])
            assert runtime.counts.batches - before[0] == batches
            assert runtime.counts.padded_rows - before[1] == passes
            assert [answer.label for answer in answers] == [answer.label for answer in alone]
        runtime.programs.call_rows = 0.0
        before = runtime.counts.batches, runtime.counts.inputs
        runtime.predict([("t", TEXTS[0])] * 5)
        assert (runtime.counts.batches - before[0], runtime.counts.inputs - before[1]) == (1, 1)


def test_due_batches_fill_by_bucket_oldest_first():
    """A device thread that is held up once, so that all rows are there when it chooses."""
    batches, started, gate = [], threading.Event(), threading.Event()

    def run(batch):
        batches.append([(row.bucket, int(row.ids[0])) for row in batch])
        return [row.ids for row in batch]

    batcher = Batcher(run, max_rows=2, max_wait=0.0)
    batcher.call(lambda: started.set() or gate.wait(60))
    assert started.wait(60)
    queued = [Queued(bucket, np.array([number]), 0, 1) for number, bucket in enumerate((16, 8, 16, 8, 16))]
    batcher.reserve(len(queued))
    for row in queued:
        batcher.put(row)
    gate.set()
    for row in queued:
        np.testing.assert_array_equal(row.future.result(60), row.ids)
    batcher.close()
    assert batches == [[(16, 0), (16, 2)], [(8, 1), (8, 3)], [(16, 4)]]


def test_a_row_waits_for_others_only_where_others_ask():
    """With a wait of an hour: an answer within seconds shows that nothing was waited for."""
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return [row.ids for row in batch]

    def put(count):
        rows = [Queued(8, np.array([number]), 0, 1) for number in range(count)]
        batcher.reserve(count)
        for row in rows:
            batcher.put(row)
            time.sleep(0.01)
        return rows

    batcher = Batcher(run, max_rows=4, max_wait=3600.0)
    for _ in range(2):
        assert put(1)[0].future.result(60)[0] == 0
    assert [row.future.result(60)[0] for row in put(3)] == [0, 1, 2], "the rows of one request, by one batch"
    assert sizes == [1, 1, 3]
    (row,) = put(1)
    assert not row.future.done(), "the last batch had several rows, so another may come"
    put(3)
    assert row.future.result(60)[0] == 0
    assert sizes[-1] == 4
    batcher.close()


def test_a_lone_request_of_two_lengths_waits_for_nobody():
    batcher = Batcher(lambda batch: [row.ids for row in batch], max_rows=4, max_wait=3600.0)
    for _ in range(2):
        batcher.reserve(2)
        rows = [Queued(bucket, np.array([bucket]), 0, 1) for bucket in (8, 16)]
        with batcher._changed:  # both are there before either runs
            for row in rows:
                batcher.put(row)
        assert [row.future.result(60)[0] for row in rows] == [8, 16]
    batcher.close()


def test_a_batch_that_raises_fails_its_rows_and_no_others():
    def run(batch):
        if batch[0].ids[0] == 1:
            raise RuntimeError("device")
        return [row.ids for row in batch]

    batcher = Batcher(run, max_rows=1, max_wait=0.0)
    batcher.reserve(3)
    queued = [Queued(8, np.array([number]), 0, 1) for number in range(3)]
    for row in queued:
        batcher.put(row)
    with pytest.raises(RuntimeError, match="device"):
        queued[1].future.result(60)
    assert queued[2].future.result(60)[0] == 2
    batcher.close()


def test_a_runtime_refuses_buckets_it_cannot_have(tiny):
    with pytest.raises(InputError, match="buckets"):
        Runtime(tiny, Envelope((Group(()),)), buckets=(8, 128), batch_sizes=(8,))
