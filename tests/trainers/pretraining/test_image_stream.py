"""Images that are read from disk: the rows, labels and losses of memory, for every way to hold rows out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from backbone.copies import remove_unused
from backbone.errors import InputError
from backbone.images import ImagePreprocessing
from tests.tiny import as_json
from tests.tiny_images import IMAGE, write_folder
from tests.trainers.pretraining.backbone_runs import call, settings
from trainers.config import Data
from trainers.pretraining import image_stream, loop
from trainers.pretraining.image_stream import streamed_labelled
from trainers.pretraining.labelled_images import read_labelled
from trainers.pretraining.record_rows import ShuffledOrder

PREPROCESSING = ImagePreprocessing(IMAGE, resize=IMAGE.size)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Folders of 12 and 4 pictures of each of three classes, and the first as a Parquet file."""
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root / "train", 12, seed=1)
    write_folder(root / "test", 4, seed=2)
    files = sorted((root / "train").rglob("*.png"))
    table = {"image": [{"bytes": f.read_bytes()} for f in files], "label": [f.parent.name for f in files]}
    parquet.write_table(pyarrow.table(table), root / "train.parquet")
    return root


def data_of(root: Path, **fields) -> Data:
    return replace(Data(train=(str(root / "train"),), format="image_folder", dev_fraction=0.0), **fields)


def lonely(root: Path, folder: Path) -> Data:
    """Rows of which the only one of some label may fall to the development rows."""
    for number, picture in enumerate(sorted((root / "train").rglob("*.png"))):
        place = folder / "lonely" / f"class{number % 9}" / picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_stem(f"{number}").write_bytes(picture.read_bytes())
    return data_of(folder, train=(str(folder / "lonely"),), dev_fraction=0.75)


CASES = {
    "test rows": lambda root, folder: data_of(root, test=(str(root / "test"),)),
    "development rows": lambda root, folder: data_of(root, dev=(str(root / "test"),)),
    "a share": lambda root, folder: data_of(root, dev_fraction=0.3),
    "shares and a gate": lambda root, folder: data_of(root, dev_fraction=0.3, gate_fraction=0.2, train_fraction=0.8),
    "a choice of labels": lambda root, folder: data_of(root, test=(str(root / "test"),), keep_labels=("red", "blue")),
    "rows that are moved": lonely,
    "parquet": lambda root, folder: data_of(
        root, train=(str(root / "train.parquet"),), format="parquet", image="image", dev_fraction=0.3
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_order_and_labels_are_those_of_memory(pictures, tmp_path, monkeypatch, case):
    monkeypatch.setattr(image_stream, "FILE_BYTES", 900)
    data = CASES[case](pictures, tmp_path)
    expected = read_labelled(data, PREPROCESSING)
    images = streamed_labelled(data, PREPROCESSING, tmp_path / "streams")
    assert images.labels == expected.labels
    assert images.fingerprint == expected.fingerprint
    for name, arrays in expected.splits.items():
        ids, labels = images.splits[name]["ids"], images.splits[name]["labels"]
        assert ids.shape == arrays["ids"].shape
        everything = ids[np.arange(len(ids))]
        np.testing.assert_array_equal(everything, arrays["ids"])
        assert everything.dtype == np.uint8
        np.testing.assert_array_equal(labels, arrays["labels"])
        np.testing.assert_array_equal(ids[np.array([1, 0, 1])], arrays["ids"][[1, 0, 1]])
    (folder,) = (tmp_path / "streams").iterdir()
    assert len(list(folder.glob("images-*"))) > 1

    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path))
    os.utime(folder, (0, 0))
    assert remove_unused(1) == [], "it is read"
    monkeypatch.setattr(image_stream, "_copy", None)  # nothing is copied again
    assert streamed_labelled(data, PREPROCESSING, tmp_path / "streams").fingerprint == expected.fingerprint


def test_a_lost_file_is_copied_again_and_a_bad_image_refused(pictures, tmp_path):
    data = data_of(pictures, test=(str(pictures / "test"),))
    first = streamed_labelled(data, PREPROCESSING, tmp_path / "streams")
    (folder,) = (tmp_path / "streams").iterdir()
    next(folder.glob("images-*")).unlink()
    again = streamed_labelled(data, PREPROCESSING, tmp_path / "streams")
    rows = np.arange(5)
    np.testing.assert_array_equal(again.splits["train"]["ids"][rows], streamed_rows(first, rows))

    bad = tmp_path / "bad" / "red"
    bad.mkdir(parents=True)
    (bad / "x.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"x.png: not a readable image"):
        streamed_labelled(replace(data, train=(str(bad.parent),)), PREPROCESSING, tmp_path / "streams")
    assert [path for path in (tmp_path / "streams").iterdir() if path.name.startswith(".")] == []
    with pytest.raises(InputError, match=r"data.test: names no file"):
        streamed_labelled(data_of(pictures), PREPROCESSING, tmp_path / "streams")


def streamed_rows(images, rows):
    return images.splits["train"]["ids"][rows]


def test_a_run_gives_the_losses_of_memory_in_the_same_order(pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.py").write_text(
        "from trainers.pretraining.config import *\nfrom trainers.config import Data\n\n"
        "def get_config():\n"
        f"    data = Data(train=({str(pictures / 'train')!r},), test=({str(pictures / 'test')!r},),\n"
        "                format='image_folder', dev_fraction=0.0)\n"
        "    return BackboneConfig(name='tiny', objective=SupervisedImages(shift=1), data=data, tokenizer=None,\n"
        "        network=NewVit(size=8, patch=4, channels=3, blocks=1, width=16, heads=2, mlp_width=32),\n"
        "        steps=6, batch_size=8, evaluate_every=3, log_every=2, max_held_out=7)\n"
    )
    results = []
    monkeypatch.setattr(loop, "_order", ShuffledOrder)
    for stream in ("true", "false"):
        run = tmp_path / stream
        words = ["train-backbone", tmp_path / "config.py", "--workdir", run, *settings(f"stream={stream}"), "--json"]
        status, out, err = call(*words, capsys=capsys)
        assert status == 0, err
        results.append((as_json(out), (run / "metrics.jsonl").read_text()))
    (streamed, logged), (in_memory, expected) = results
    assert logged == expected
    for name in ("weights_id", "held_out_loss", "held_out_accuracy", "train_rows"):
        assert streamed[name] == in_memory[name]
