"""`train-backbone` on rows that are read from disk: the losses of memory, a kill, what is read, and by whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backbone.meshes.layout import Layout
from backbone.meshes.mesh import Mesh
from tests.tiny import as_json
from tests.trainers.pretraining.backbone_runs import (
    call,
    killed_and_resumed,
    paragraphs,
    result_of,
    settings,
    text_material,
)
from trainers.pretraining import loop
from trainers.pretraining.record_rows import RecordRows, ShuffledOrder

SCRIPT = """
from trainers.pretraining.config import *
from trainers.config import Optimizer

def get_config():
    return BackboneConfig(
        name="tiny", stream=True, steps=40, batch_size=16, evaluate_every=20, log_every=5, max_held_out=24,
        corpus=Corpus(files=({corpus!r},), tokens=16, held_out_fraction=0.1), tokenizer=WordPiece(vocabulary=120),
        network=NewBert(blocks=1, width=32, heads=2, mlp_width=64),
        optimizer=Optimizer(learning_rate=5e-3, warmup_fraction=0.1, weight_decay=0.01, clip_norm=1.0),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with `corpus.txt` and `config.py`; an epoch is less than the run."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs(300)), encoding="utf-8")
    (folder / "config.py").write_text(SCRIPT.format(corpus=str(folder / "corpus.txt")), encoding="utf-8")
    return folder


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train/loss", "held_out/loss") if name in line]


def test_the_losses_are_those_of_rows_in_memory_in_the_same_order(whole, place, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_order", ShuffledOrder)
    status, out, err = call(
        "train-backbone", place / "config.py", "--workdir", place / "memory", *settings("stream=false"), "--json",
        capsys=capsys,
    )  # fmt: skip
    assert status == 0, err
    in_memory, streamed = as_json(out), result_of(whole)
    assert losses(place / "memory") == losses(whole)
    assert len(losses(whole)) == 8 + 2
    for name in ("weights_id", "held_out_loss", "unigram_entropy", "train_tokens", "train_rows"):
        assert in_memory[name] == streamed[name]
    assert streamed["train_rows"] < 40 * 16, "the run goes on into a second epoch"
    assert (place / "memory" / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()


def test_killed_and_resumed_it_ends_in_the_same_bits(whole, place, tmp_path, capsys):
    killed_and_resumed(place, tmp_path / "run", whole, capsys)


def test_a_resumed_run_reads_nothing_of_what_was_passed(whole, place, tmp_path, monkeypatch, capsys):
    arguments = ["train-backbone", place / "config.py", "--workdir", tmp_path / "run", "--json"]
    status, out, err = call(*arguments, *settings("max_seconds=0.0001"), capsys=capsys)
    assert status == 0, err
    done = as_json(out)["steps"]
    assert 0 < done < 20

    batches, read = [], RecordRows.records
    monkeypatch.setattr(RecordRows, "records", lambda self, rows: (batches.append(list(rows)), read(self, rows))[1])
    status, out, err = call(*arguments, "--resume", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["weights_id"] == result_of(whole)["weights_id"]
    held_out = [list(range(16)), [*range(16, 24), *[16] * 8]] * 2
    trained = [batch for batch in batches if batch not in [*held_out, list(range(24))]]
    rows = result_of(whole)["train_rows"]
    expected = []
    for number in range(done, 40):
        epoch, at = divmod(number, rows // 16)
        expected.append(ShuffledOrder(0, epoch, rows)[at * 16 : (at + 1) * 16].tolist())
    assert sorted(trained) == sorted(expected), "threads read several batches at once"


def test_a_process_reads_the_rows_of_its_devices_alone(monkeypatch):
    layout = Layout(Mesh(data=2, fsdp=2, tensor=1), tuple(range(4)))
    parts = {0: (slice(4, 8),), 1: (slice(12, 16),)}
    sharding = SimpleNamespace(addressable_devices_indices_map=lambda shape: parts)
    monkeypatch.setattr(Layout, "is_local", False)
    monkeypatch.setattr(Layout, "sharding", lambda self, *axes: sharding)
    share = layout.share(16)
    assert np.flatnonzero(share).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]

    class Counting:
        shape = (48, 32)

        def __len__(self) -> int:
            return 48

        def __getitem__(self, rows):
            read.extend(rows.tolist())
            return np.stack([np.full(32, row, np.int32) for row in rows])

    read: list[int] = []
    material = replace(text_material(), splits={"train": {"ids": Counting()}})
    rows = np.arange(20, 34)
    batch = material.batch("train", rows, 16, share)
    assert read == [24, 25, 26, 27, 32, 33, 20, 20]
    assert batch["ids"][:, 0].tolist() == [0, 0, 0, 0, 24, 25, 26, 27, 0, 0, 0, 0, 32, 33, 20, 20]
    assert batch["weights"].tolist() == [1] * 14 + [0] * 2
    assert Layout(Mesh()).share(16) is None
