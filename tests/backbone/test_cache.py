"""Rows on disk: what comes back, what a kill leaves, what damage does, and room."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import backbone.cache as cache_module
from backbone.cache import RowCache, Variant, bytes_per_token, collect_garbage, row_key, stat

ROOT = Path(__file__).resolve().parents[2]


def variant(storage="float32", **changes) -> Variant:
    fields = {
        "weights_id": "w",
        "boundary": 2,
        "prefix_id": "none",
        "content": "states",
        "pooling": "",
        "width": 8,
        "compute_dtype": "float32",
        "storage": storage,
        "backend": "cpu",
    }
    return Variant(**(fields | changes))


def rows(count: int, seed: int = 0) -> list[tuple[bytes, int, np.ndarray]]:
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        tokens = int(draw.integers(1, 9))
        made.append((row_key(np.array([seed, i])), 8, draw.normal(size=(tokens, 8)).astype(np.float32)))
    return made


def filled(root: Path, items, **changes) -> RowCache:
    cache = RowCache(root, variant(**changes))
    with cache.writing():
        for key, bucket, states in items:
            cache.add(key, bucket, states)
    return cache


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_what_comes_back(storage, tmp_path):
    items = rows(40)
    filled(tmp_path, items, storage=storage)
    again = RowCache(tmp_path, variant(storage))
    assert len(again) == 40
    for key, bucket, states in items:
        assert again.has(key, bucket)
        assert not again.has(key, 16), "computed in another bucket is another row"
        found = again.read(key)
        assert found.dtype == np.float32
        if storage == "float32":
            np.testing.assert_array_equal(found, states)
        elif storage == "bfloat16":
            np.testing.assert_array_equal(found, states.astype(ml_dtypes.bfloat16).astype(np.float32))
        else:
            scale = np.abs(states).max(-1, keepdims=True) / 127
            assert (np.abs(found - states) <= scale * 0.5001).all()


def test_int8_takes_a_quarter():
    assert bytes_per_token(384, "float32") / bytes_per_token(384, "int8") > 3.8
    assert bytes_per_token(384, "bfloat16") == 768


@pytest.mark.parametrize(
    "change",
    [
        {"boundary": 3},
        {"prefix_id": "x"},
        {"weights_id": "v"},
        {"backend": "gpu"},
        {"compute_dtype": "bfloat16"},
        {"storage": "bfloat16"},
        {"pooling": "mean"},
        {"content": "pooled"},
        {"layout": 2},
    ],
)
def test_variants_never_share_rows(change, tmp_path):
    items = rows(3)
    filled(tmp_path, items)
    assert not RowCache(tmp_path, variant(**change)).has(items[0][0], 8)


def test_keys_are_of_content():
    assert row_key(np.array([1, 2], np.int64)) == row_key(np.array([1, 2], np.int32))
    assert row_key(np.array([1, 2])) != row_key(np.array([1, 2, 0]))
    assert len(row_key(np.array([5]))) == 16


def test_segments_are_added_and_a_row_is_stored_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SEGMENT_BYTES", 500)
    items = rows(30)
    cache = filled(tmp_path, items + items)
    assert len(cache) == 30
    (entry,) = stat(tmp_path)
    assert entry.segments > 3
    assert entry.rows == 30
    assert entry.tokens == sum(len(states) for _, _, states in items)
    for key, _, states in items:
        np.testing.assert_array_equal(cache.read(key), states)


def test_an_error_while_filling_keeps_what_was_computed(tmp_path):
    cache, items = RowCache(tmp_path, variant()), rows(2)

    def fill() -> None:
        with cache.writing():
            cache.add(*items[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert RowCache(tmp_path, variant()).has(items[0][0], 8)


def test_killed_while_writing_and_filled_again(tmp_path):
    """Killed at several instants; what looks whole is whole, the rest is computed again."""
    code = (
        "import sys; from pathlib import Path; import backbone.cache as c; c.SEGMENT_BYTES = 2000\n"
        "from tests.backbone.test_cache import rows, variant\n"
        "cache = c.RowCache(Path(sys.argv[1]), variant()); print('go', flush=True)\n"
        "with cache.writing():\n"
        "    for item in rows(3000): cache.add(*item)\n"
    )
    items = rows(3000)
    seen = 0
    for delay in (0.01, 0.05, 0.12):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        process.stdout.close()
        cache = RowCache(tmp_path, variant())
        assert len(cache) >= seen, "nothing that was whole is lost"
        seen = len(cache)
        for key, bucket, states in items:
            if cache.has(key, bucket):
                np.testing.assert_array_equal(cache.read(key), states)
    cache = filled(tmp_path, items)
    assert len(cache) == 3000
    assert not list(cache.folder.glob("*.tmp-*"))
    assert {p.stem for p in cache.folder.glob("*.rows")} == {p.stem for p in cache.folder.glob("[0-9]*.json")}


def test_two_writers_take_turns(tmp_path):
    """The second waits for the lock and then sees what the first wrote."""
    items = rows(5)
    first, second = RowCache(tmp_path, variant()), RowCache(tmp_path, variant())
    with first.writing():
        first.add(*items[0])
    with second.writing():
        assert second.has(items[0][0], 8)
        second.add(*items[1])
    assert len(RowCache(tmp_path, variant())) == 2


def test_damage_is_found_and_removed(tmp_path, caplog):
    items = rows(20)
    cache = filled(tmp_path, items)
    file = next(cache.folder.glob("*.rows"))
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    assert stat(tmp_path, verify=True)[0].damaged == [str(file)]
    assert collect_garbage(tmp_path, 2**40) == [str(file.with_suffix(""))]
    assert len(RowCache(tmp_path, variant())) == 0
    cache = filled(tmp_path, items)
    file = next(cache.folder.glob("*.rows"))
    file.write_bytes(file.read_bytes()[:-4])
    assert len(RowCache(tmp_path, variant())) == 0, "a file that was cut is not read"
    assert "not the size that was written" in caplog.text


FORGED = {
    "a start": lambda index, rows: index["start"].__setitem__(2, 0),
    "a start below nought": lambda index, rows: index["start"].__setitem__(0, -1),
    "fewer tokens": lambda index, rows: index["tokens"].__setitem__(3, 1),
    "no tokens": lambda index, rows: index["tokens"].__setitem__(0, 0),
    "more tokens than there are": lambda index, rows: index["tokens"].__setitem__(-1, 1000),
    "half a state more": lambda index, rows: rows.extend(b"0" * 6),
    "a state less": lambda index, rows: rows.__delitem__(slice(0, 16)),
}


@pytest.mark.parametrize("kind", FORGED)
def test_an_index_that_is_not_of_its_rows_is_not_read(kind, tmp_path, caplog):
    """Sizes and hashes are right: what is read would be other rows, or a part of one."""
    items = rows(20)
    file = next(filled(tmp_path, items).folder.glob("*.rows"))
    index, states = np.fromfile(file.with_suffix(".index"), cache_module._INDEX), bytearray(file.read_bytes())
    FORGED[kind](index, states)
    described = json.loads(file.with_suffix(".json").read_text())
    for suffix, content in ((".index", index.tobytes()), (".rows", bytes(states))):
        file.with_suffix(suffix).write_bytes(content)
        part = suffix[1:]
        described |= {f"{part}_bytes": len(content), f"{part}_sha256": hashlib.sha256(content).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(described))
    again = RowCache(tmp_path, variant())
    assert len(again) == 0
    assert "its index is not that of its rows" in caplog.text
    assert len(filled(tmp_path, items)) == len(items), "they are computed again"


def test_room_is_made_from_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SEGMENT_BYTES", 400)
    old, new = filled(tmp_path, rows(20)), filled(tmp_path, rows(20, seed=1), boundary=3)
    for i, file in enumerate([*sorted(old.folder.glob("*.rows")), *sorted(new.folder.glob("*.rows"))]):
        os.utime(file, ns=(i, i))
    size = sum(p.stat().st_size for p in new.folder.glob("*.rows"))
    collect_garbage(tmp_path, size)
    assert len(RowCache(tmp_path, variant())) == 0
    assert len(RowCache(tmp_path, variant(boundary=3))) == 20
    collect_garbage(tmp_path, 0, keep=new.segments(key for key, _, _ in rows(20, seed=1)))
    assert len(RowCache(tmp_path, variant(boundary=3))) == 20


def test_rows_of_a_damaged_segment_are_forgotten_and_replaced(tmp_path, caplog):
    items = rows(6)
    cache = filled(tmp_path, items)
    file = next(cache.folder.glob("*.rows"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = RowCache(tmp_path, variant())
    again.check(key for key, _, _ in items)
    assert not again.has(items[0][0], 8)
    assert "damaged" in caplog.text
    filled_again = again
    with filled_again.writing():
        for key, bucket, states in items:
            filled_again.add(key, bucket, states)
    last = RowCache(tmp_path, variant())
    last.check(key for key, _, _ in items)
    for key, _, states in items:
        np.testing.assert_array_equal(last.read(key), states)


def test_what_is_in_use_survives_its_removal(tmp_path, monkeypatch):
    """Segments are removed while one process fills and another reads; nobody ever gets another row's states."""
    monkeypatch.setattr(cache_module, "SEGMENT_BYTES", 400)
    items = rows(20)
    filled(tmp_path, items[:10])
    reader, late = RowCache(tmp_path, variant()), RowCache(tmp_path, variant())
    assert all(reader.has(key, bucket) for key, bucket, _ in items[:10])
    writer = RowCache(tmp_path, variant())
    with writer.writing():
        for item in items[10:15]:
            writer.add(*item)
        collect_garbage(tmp_path, 0)
        for item in items[15:]:
            writer.add(*item)
    for key, _, states in items[:10]:
        np.testing.assert_array_equal(reader.read(key), states)
    for key, _, states in items[10:]:
        np.testing.assert_array_equal(writer.read(key), states)
    assert not any(late.has(key, bucket) for key, bucket, _ in items[:10]), "gone before it looked"
    late.check(key for key, _, _ in items)
    again = RowCache(tmp_path, variant())
    for key, bucket, states in items:
        if again.has(key, bucket):
            np.testing.assert_array_equal(again.read(key), states)


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    items = rows(3)
    cache = RowCache(tmp_path, variant())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        with cache.writing():
            for item in items:
                cache.add(*item)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))

    try:
        with pytest.raises(OSError, match=r"too large: .*\.rows"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(cache.has(key, bucket) for key, bucket, _ in items)
    assert not list(cache.folder.glob("*.rows*"))
    assert len(filled(tmp_path, items)) == 3


def test_gc_removes_what_a_killed_remover_left_but_not_what_is_being_written(tmp_path, monkeypatch):
    """A segment without a description is one that is written, or one that was removed by half."""
    monkeypatch.setattr(cache_module, "SEGMENT_BYTES", 500)
    cache = filled(tmp_path, rows(6))
    for file in cache.folder.glob("*.json"):
        if file.stem.isdecimal():
            file.unlink()
    assert list(cache.folder.glob("*.rows"))
    with RowCache(tmp_path, cache.variant).writing() as writer:
        (writer.folder / "7.rows").write_bytes(b"of a segment that is being written")
        collect_garbage(tmp_path, 2**40)
        assert [file.name for file in cache.folder.glob("*.rows")] == ["7.rows"]
    collect_garbage(tmp_path, 2**40)
    assert not [*cache.folder.glob("*.rows"), *cache.folder.glob("*.index")]
