"""Prepared rows: splits that never move, and preparation that survives damage, kills and company."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from adapters.heads.columns import OneLabel, SeveralLabels
from backbone.errors import InputError
from tests.command import ROOT
from trainers.config import Data
from trainers.data.prepare import prepare
from trainers.data.splits import fingerprint, kept, membership, normalise, row_hash, unit_hash

PREPARE = (
    "import sys; from pathlib import Path; from trainers.config import Data\n"
    "from adapters.heads.columns import OneLabel; from trainers.data.prepare import prepare\n"
    "print('ready', flush=True)\n"
    "prepare(Data(train=(sys.argv[1],)), OneLabel(), cache=Path(sys.argv[2]))\n"
)


def table(count: int, start: int = 0) -> str:
    return "text,label\n" + "".join(f"row number {i},{'ab'[i % 2]}\n" for i in range(start, start + count))


def test_rows_never_change_sides():
    texts = [f"text {i}" for i in range(4000)]
    sides = {t: membership(t, 0.1, 0.05) for t in texts}
    shares = [list(sides.values()).count(name) / 4000 for name in ("dev", "gate")]
    np.testing.assert_allclose(shares, [0.1, 0.05], atol=0.015)
    for t in texts:
        if membership(t, 0.2, 0.05) != sides[t]:
            assert sides[t] == "train", "a larger development share takes from train only"
        if membership(t, 0.1, 0.15) != sides[t]:
            assert sides[t] == "train"
        assert membership(f"  {t.upper()}\n", 0.1, 0.05) == sides[t], "near duplicates stay together"
    assert {t for t in texts if kept(t, 0.1)} <= {t for t in texts if kept(t, 0.3)}
    independent = [membership(t, 0.1, 0) == "dev" for t in texts if kept(t, 0.5)]
    assert abs(np.mean(independent) - 0.1) < 0.02
    assert normalise("\ufb01ne  Café\n") == "fine café"
    assert normalise("STRASSE \uff11\u2460") == normalise("straße 11") == "strasse 11", "letters and forms of one text"
    assert 0 <= unit_hash("", "x") < 1


def test_the_fingerprint_is_of_the_multiset():
    hashes = [row_hash(f"t{i}", ("a",)) for i in range(5)]
    assert fingerprint(hashes) == fingerprint(hashes[::-1])
    assert fingerprint(hashes) != fingerprint([*hashes, hashes[0]])
    assert row_hash("ab", ("c",)) != row_hash("a", ("bc",))


def test_prepared_once_and_again_when_bytes_change(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(table(50))
    data = Data(train=(str(path),), dev_fraction=0.2, gate_fraction=0.1)
    first = prepare(data, OneLabel(), cache=tmp_path / "cache")
    again = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert not first.hit
    assert again.hit
    assert again.folder == first.folder
    assert set(first.splits) == {"train", "dev", "gate"}
    assert sum(len(first.table(name)) for name in first.splits) == 50
    where = first.table("train").where[0]
    assert where.startswith(f"{path}:")
    line = int(where.rpartition(":")[2])
    assert path.read_text().splitlines()[line - 1].startswith(first.table("train").texts[0])
    path.write_text(table(51))
    assert not prepare(data, OneLabel(), cache=tmp_path / "cache").hit
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_order_of_rows_in_the_file_is_forgotten(tmp_path):
    lines = table(40).splitlines()
    tables = []
    for name, body in (("a", lines[1:]), ("b", lines[:0:-1])):
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *body]))
        made = prepare(Data(train=(str(tmp_path / f"{name}.csv"),)), OneLabel(), cache=tmp_path / "cache")
        tables.append((made.table("train").texts, made.fingerprint))
    assert tables[0] == tables[1]


def test_more_rows_than_a_chunk_come_back_whole(tmp_path):
    (tmp_path / "train.csv").write_text(table(1100))
    made = prepare(Data(train=(str(tmp_path / "train.csv"),), dev_fraction=0), OneLabel(), cache=tmp_path / "c")
    assert sorted(made.table("train").texts) == sorted(f"row number {i}" for i in range(1100))


def test_a_damaged_preparation_is_made_again(tmp_path, caplog):
    (tmp_path / "train.csv").write_text(table(50))
    data = Data(train=(str(tmp_path / "train.csv"),))
    made = prepare(data, OneLabel(), cache=tmp_path / "cache")
    texts = made.table("train").texts
    record = max((made.folder / "rows").iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    again = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert not again.hit
    assert "altered or incomplete" in caplog.text
    assert again.table("train").texts == texts


def test_killed_while_preparing_leaves_nothing_that_looks_whole(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(table(20_000))
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", PREPARE, str(path), str(cache)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(cache.glob("*/tfds")) + list(cache.glob(".*/tfds")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not [p for p in cache.iterdir() if (p / "prepared.json").exists()]
    made = prepare(Data(train=(str(path),), dev_fraction=0), OneLabel(), cache=cache)
    assert len(made.table("train")) == 20_000


def test_two_at_once_prepare_the_same(tmp_path):
    (tmp_path / "train.csv").write_text(table(60))
    data = Data(train=(str(tmp_path / "train.csv"),))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare(data, OneLabel(), cache=tmp_path / "cache")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0].table("train").texts == found[1].table("train").texts


def test_labels(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nx,b|a\ny,\nz,b\n")
    data = Data(train=(str(tmp_path / "train.csv"),), dev_fraction=0)
    rows = prepare(data, SeveralLabels(), cache=tmp_path / "cache").table("train")
    names = SeveralLabels().names(rows.labels, data)
    assert names == ("a", "b")
    encoded = SeveralLabels().encode(rows.labels, names, rows.where)
    hot = {text: values.tolist() for text, values in zip(rows.texts, encoded, strict=True)}
    assert hot == {"x": [1, 1], "y": [0, 0], "z": [0, 1]}
    with pytest.raises(InputError, match=r"train.csv:[24]: the label 'b' was never seen in training; known: a, c"):
        SeveralLabels().encode(rows.labels, ("a", "c"), rows.where)
