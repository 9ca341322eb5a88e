"""A corpus tokenised into the home: the sequences of memory, a kill in the middle, damage, and a run on it."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbone.copies import remove_unused
from backbone.errors import InputError
from tests.trainers.pretraining.backbone_runs import ROOT, call, paragraphs, settings
from tests.trainers.pretraining.test_shards import write_parquet
from trainers.pretraining import token_stream
from trainers.pretraining.config import BackboneConfig, Corpus, Distil, WordPiece
from trainers.pretraining.corpus import pack, read_text, roles_of, unigram_entropy
from trainers.pretraining.record_rows import ShuffledOrder, prefetched
from trainers.pretraining.token_stream import streamed_text, tokenised

TOKENIZER = WordPiece(vocabulary=120)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Two text files and a Parquet file."""
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(paragraphs(150, seed=number)), encoding="utf-8")
    write_parquet(tmp_path / "z.parquet")
    files = (str(tmp_path / "0.txt"), str(tmp_path / "z.parquet"), str(tmp_path / "1.txt"))
    return Corpus(files=files, tokens=16, held_out_fraction=0.2)


def everything(rows) -> np.ndarray:
    return rows[np.arange(len(rows))]


def made(corpus: Corpus, cache: Path):
    preprocessing = TOKENIZER.tokenizer(streamed_text(corpus).train, 16)
    return tokenised(corpus, preprocessing, roles_of(preprocessing, needs_mask=True), cache)


def test_the_sequences_are_those_of_memory(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(token_stream, "BATCH_BYTES", 300)
    monkeypatch.setattr(token_stream, "COMMIT_BYTES", 4000)
    text = read_text(corpus)
    preprocessing = TOKENIZER.tokenizer(text.train, 16)
    roles = roles_of(preprocessing, needs_mask=True)
    assert TOKENIZER.tokenizer(streamed_text(corpus).train, 16).preprocessing_id == preprocessing.preprocessing_id
    expected = pack(text, preprocessing, roles, 16)
    sequences = tokenised(corpus, preprocessing, roles, tmp_path / "streams")
    for ours, theirs in ((sequences.train, expected.train), (sequences.held_out, expected.held_out)):
        np.testing.assert_array_equal(everything(ours), theirs)
        assert everything(ours).dtype == np.int32
        assert ours.shape == theirs.shape
        draw = np.random.default_rng(0).integers(0, len(ours), 7)
        np.testing.assert_array_equal(ours[draw], theirs[draw])
    assert sequences.tokens == expected.tokens
    assert unigram_entropy(sequences.held_out, roles.special) == unigram_entropy(expected.held_out, roles.special)
    (folder,) = (path for path in (tmp_path / "streams").iterdir() if path.is_dir())
    assert len(list(folder.glob("train-*"))) > 3, "it was committed several times"

    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path))
    os.utime(folder, (0, 0))
    assert remove_unused(1) == [], "it is read"
    monkeypatch.setattr(token_stream, "units", None)  # nothing is read again
    again = tokenised(corpus, preprocessing, roles, tmp_path / "streams")
    np.testing.assert_array_equal(everything(again.train), expected.train)


KILLED = """
import os, signal, sys
from pathlib import Path
from trainers.pretraining import token_stream
from tests.trainers.pretraining.test_token_stream import made
from trainers.pretraining.config import Corpus

token_stream.BATCH_BYTES, token_stream.COMMIT_BYTES = 300, 3000
commit, commits = token_stream._Writer.commit, []

def killed(self, *place):
    commit(self, *place)
    commits.append(place)
    if len(commits) == 3:
        self._write({"train": ["ban bas " * 40], "held_out": []}, 9)  # what no commit covers
        os.kill(os.getpid(), signal.SIGKILL)

token_stream._Writer.commit = killed
made(Corpus(files=tuple(sys.argv[2:]), tokens=16, held_out_fraction=0.2), Path(sys.argv[1]))
"""


def test_a_killed_process_leaves_what_it_has_read_to_the_next(corpus, tmp_path, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "streams"), *corpus.files]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    (partial,) = (tmp_path / "streams").glob("*.partial")
    before = len(list(partial.glob("train-*")))

    texts = []
    membership = token_stream.membership
    preprocessing = TOKENIZER.tokenizer(streamed_text(corpus).train, 16)
    roles = roles_of(preprocessing, needs_mask=True)
    monkeypatch.setattr(token_stream, "membership", lambda text, *of: (texts.append(text), membership(text, *of))[1])
    sequences = tokenised(corpus, preprocessing, roles, tmp_path / "streams")
    text = read_text(corpus)
    expected = pack(text, preprocessing, roles, 16)
    np.testing.assert_array_equal(everything(sequences.train), expected.train)
    np.testing.assert_array_equal(everything(sequences.held_out), expected.held_out)
    assert sequences.tokens == expected.tokens
    assert before == 4
    assert 0 < len(texts) < 0.7 * (len(list(text.train)) + len(list(text.held_out))), "the rest alone was read"
    assert not list((tmp_path / "streams").glob("*.partial"))


def test_a_committed_file_that_is_cut_is_not_gone_on_from(corpus, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(token_stream, "BATCH_BYTES", 300)
    monkeypatch.setattr(token_stream, "COMMIT_BYTES", 3000)
    commit, cache = token_stream._Writer.commit, tmp_path / "streams"

    def interrupted(self, *place):
        commit(self, *place)
        if len(self.stream.train) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(token_stream._Writer, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(corpus, cache)
    monkeypatch.setattr(token_stream._Writer, "commit", commit)
    (partial,) = cache.glob("*.partial")
    os.truncate(partial / "train-00001.array_record", 100)
    sequences = made(corpus, cache)
    assert "train-00001.array_record is missing or cut" in caplog.text
    preprocessing = TOKENIZER.tokenizer(streamed_text(corpus).train, 16)
    expected = pack(read_text(corpus), preprocessing, roles_of(preprocessing, needs_mask=True), 16)
    np.testing.assert_array_equal(everything(sequences.train), expected.train)
    assert sequences.tokens == expected.tokens


def test_a_damaged_stream_is_renamed_then_removed_by_the_holder_of_the_lock(corpus, tmp_path, monkeypatch):
    cache, removed = tmp_path / "streams", []
    made(corpus, cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "train-00000.array_record").unlink()
    assert token_stream._whole(folder) is None
    assert (folder / token_stream.SEAL).is_file(), "looking removes nothing"
    rmtree = shutil.rmtree

    def watched(path, **words):
        assert not folder.exists() or not path.exists()
        with folder.with_suffix(".lock").open("wb") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed.append(path.name)
        rmtree(path, **words)

    monkeypatch.setattr(token_stream.shutil, "rmtree", watched)
    made(corpus, cache)
    assert removed
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_a_corpus_of_any_size_is_few_files_and_too_many_say_which_limit(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(token_stream, "BATCH_BYTES", 1)
    monkeypatch.setattr(token_stream, "COMMIT_BYTES", 1)
    sequences = made(corpus, tmp_path / "streams")
    (folder,) = (path for path in (tmp_path / "streams").iterdir() if path.is_dir())
    for side in ("train", "held_out"):
        assert 20 < len(list(folder.glob(f"{side}-*"))) <= token_stream.MAX_FILES
    assert len(sequences.train._source) == len(sequences.train)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 5, hard))
    try:
        with pytest.raises(InputError, match=r"files are more than this process may open.*ulimit -n"):
            everything(sequences.train)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_files_of_a_packed_corpus_grow_with_its_logarithm():
    size, files, unpacked = 1 << 40, 0, 0
    while unpacked < 20 * size:
        unpacked, files = unpacked + token_stream._commit_bytes(size, files), files + 1
    assert files < 5 * token_stream.MAX_FILES
    assert token_stream._commit_bytes(1000) == token_stream.COMMIT_BYTES


def test_another_content_is_another_stream_and_a_lost_file_is_made_again(corpus, tmp_path):
    cache = tmp_path / "streams"
    first = made(corpus, cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "train-00000.array_record").unlink()
    assert made(corpus, cache).fingerprint == first.fingerprint
    assert (folder / "train-00000.array_record").is_file()
    with Path(corpus.files[0]).open("a", encoding="utf-8") as file:
        file.write("\n\nban bas bat")
    assert made(corpus, cache).fingerprint != first.fingerprint
    assert made(replace(corpus, tokens=32), cache).fingerprint != first.fingerprint

    file = folder / "train-00000.array_record"
    content = bytearray(file.read_bytes())
    content[content.index(everything(first.train)[5].astype("<u2").tobytes()) + 9] ^= 1
    file.write_bytes(content)  # of the same size, so it is seen when it is read
    damaged = tokenised_again(corpus, cache, first)
    with pytest.raises(InputError, match=r"damaged .*remove this folder"):
        everything(damaged.train)


def tokenised_again(corpus: Corpus, cache: Path, first):
    """The sequences of the first content of a corpus."""
    path = Path(corpus.files[0])
    path.write_text(path.read_text(encoding="utf-8").removesuffix("\n\nban bas bat"), encoding="utf-8")
    again = made(corpus, cache)
    assert again.fingerprint == first.fingerprint
    return again


def test_a_shard_without_text_is_refused(corpus, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n ", encoding="utf-8")
    with pytest.raises(InputError, match=r"empty.txt: holds no text"):
        made(replace(corpus, files=(*corpus.files, str(tmp_path / "empty.txt"))), tmp_path / "streams")


@pytest.mark.parametrize("count", [1, 2, 97, 4096])
def test_an_order_is_a_permutation_of_its_own_for_each_epoch(count):
    orders = [ShuffledOrder(seed, epoch, count)[0:count] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order.tolist()) == list(range(count))
    if count > 2:
        assert all((a != b).any() for a, b in ((orders[0], orders[1]), (orders[0], orders[2]), (orders[1], orders[2])))
    np.testing.assert_array_equal(ShuffledOrder(0, 0, count)[count // 2 : count], orders[0][count // 2 :])


def test_an_order_of_billions_needs_no_memory():
    rows = ShuffledOrder(3, 5, 2**32 - 1)[10**9 : 10**9 + 50]
    assert len(set(rows.tolist())) == 50
    assert rows.max() > 2**31
    with pytest.raises(InputError, match="at most 4294967295 can be shuffled"):
        ShuffledOrder(0, 0, 2**32)


def test_batches_come_in_order_and_none_before_the_first():
    read = []
    assert list(prefetched(lambda number: (read.append(number), number * 2)[1], 90, 120)) == list(range(180, 240, 2))
    assert sorted(read) == list(range(90, 120))


def test_an_objective_that_keeps_its_rows_refuses_to_stream():
    with pytest.raises(InputError, match="stream: objective=distil keeps its rows in memory"):
        BackboneConfig(objective=Distil(teacher="minilm"), tokenizer=None, stream=True)
    with pytest.raises(InputError, match="max_held_out"):
        BackboneConfig(max_held_out=-1)


def test_a_column_that_is_missing_is_one_error_before_the_first_step(corpus, tmp_path, capsys):
    status, _, err = call(
        "train-backbone", "text_mlm", "--workdir", tmp_path / "run",
        *settings(f"corpus.files={tmp_path / 'z.parquet'}", "corpus.column=body", "stream=true"), capsys=capsys,
    )  # fmt: skip
    assert status == 2
    assert "has no column 'body'" in err
