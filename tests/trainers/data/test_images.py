"""Images through the real main, and every source of them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import load_file

import topgraft
from adapters.heads.columns import Number, OneLabel
from backbone.errors import InputError
from backbone.storage import load_backbone
from tests.tiny_images import make_image_backbone, picture, write_folder
from tests.trainers.data.format_writers.idx import idx_bytes
from trainers.config import Data
from trainers.data.encoded_images import pnm
from trainers.data.examples import load_data
from trainers.data.prepare import prepare
from trainers.data.rows import read_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny image backbone, and folders of 40 and 15 pictures of each class."""
    root = tmp_path_factory.mktemp("images")
    make_image_backbone(root / "backbone")
    write_folder(root / "train", 40, seed=1)
    write_folder(root / "test", 15, seed=2)
    return root


def main(*arguments, capsys) -> dict:
    assert topgraft.main([*map(str, arguments), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_train_cache_resume_evaluate_and_predict(place, tmp_path, capsys):
    settings = [f"backbone={place / 'backbone'}", f"data.train={place / 'train'}", f"data.test={place / 'test'}"]
    settings += ["plan.stages=all", "epochs=2", "optimizer.learning_rate=5e-3", "batch_size=16"]
    sets = [part for setting in settings for part in ("--set", setting)]
    result = main("train", "image_classification", "--workdir", "run", *sets, capsys=capsys)
    assert result["metrics"]["test"]["accuracy"] > 0.9, "colours betray the class"
    graft = tmp_path / "run" / "graft"
    scored = main("evaluate", graft, capsys=capsys)
    assert scored["metrics"]["test"]["accuracy"] == result["metrics"]["test"]["accuracy"]
    assert scored["rows"]["test"] == 45

    files = [place / "test" / "green" / "3.png", place / "test" / "blue" / "4.png"]
    answers = main("predict", graft, "--file", files[0], "--file", files[1], capsys=capsys)["predictions"]
    assert [a["labels"] for a in answers] == [["green"], ["blue"]]
    assert [a["image"] for a in answers] == [str(f) for f in files]
    loaded = topgraft.load(graft)
    as_bytes = loaded.predict([files[0].read_bytes()])[0]
    assert as_bytes.probabilities == loaded.predict([str(files[0])])[0].probabilities

    same = main("train", "image_classification", "--workdir", "run", *sets, "--resume", capsys=capsys)
    assert same["content_id"] == result["content_id"], "a finished run is resumed to the same graft"

    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:60])
    assert topgraft.main(["predict", str(graft), "--file", str(tmp_path / "broken.png")]) != 0
    assert "broken.png: not a readable image" in capsys.readouterr().err
    assert topgraft.main(["predict", str(graft), "--text", "hello"]) != 0
    assert "--file IMAGE" in capsys.readouterr().err


def test_the_boundary_cache_gives_the_same_graft(place, tmp_path, capsys):
    settings = [f"backbone={place / 'backbone'}", f"data.train={place / 'train'}", "plan.stages=all", "epochs=1"]
    settings += ["batch_size=16", "adapter.blocks=1:", "adapter.dropout=0.0"]
    sets = [part for setting in settings for part in ("--set", setting)]
    for name, cache in (("cached", "float32"), ("plain", "none")):
        main("train", "image_classification", "--workdir", name, *sets, "--set", f"plan.cache={cache}", capsys=capsys)
    cached, plain = (load_file(tmp_path / name / "graft" / "graft.safetensors") for name in ("cached", "plain"))
    for key, value in plain.items():
        np.testing.assert_allclose(cached[key], value, atol=1e-5, err_msg=key)


def test_rows_are_prepared_once_and_keep_their_bytes(place, tmp_path):
    data = Data(train=(str(place / "train"),), format="image_folder")
    first = prepare(data, OneLabel(), cache=tmp_path / "cache")
    again = prepare(data, OneLabel(), cache=tmp_path / "cache")
    assert (first.hit, again.hit) == (False, True)
    table = again.table("train")
    for content, label, where in zip(table.images, table.labels, table.where, strict=True):
        assert content == Path(where).read_bytes()
        assert label == (Path(where).parent.name,)
    assert len(table) + len(again.table("dev")) == 120


def test_a_corrupt_image_names_its_file(place, tmp_path):
    folder = write_folder(tmp_path / "some", 2, seed=3)
    bad = folder / "green" / "1.png"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(InputError, match=r"green/1\.png: not a readable image"):
        list(read_rows(Data(train=(str(folder),), format="image_folder"), "train", OneLabel()))
    bad.unlink()
    (folder / "green" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: not an image by its suffix"):
        list(read_rows(Data(train=(str(folder),), format="image_folder"), "train", OneLabel()))
    (folder / "green" / "notes.txt").unlink()
    (folder / "green" / "far.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"far\.png: cannot be read; a link to nowhere"):
        list(read_rows(Data(train=(str(folder),), format="image_folder"), "train", OneLabel()))
    (folder / "green" / "far.png").unlink()
    (folder / "train").mkdir()
    (folder / "train" / "green").mkdir()
    with pytest.raises(InputError, match=r"if 'train' is a split, name .*train"):
        list(read_rows(Data(train=(str(folder),), format="image_folder"), "train", OneLabel()))
    (folder / "train" / "green").rmdir()
    (folder / "loose.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"loose\.png: is in no class"):
        list(read_rows(Data(train=(str(folder),), format="image_folder"), "train", OneLabel()))
    with pytest.raises(InputError, match="no such folder"):
        list(read_rows(Data(train=(str(tmp_path / "none"),), format="image_folder"), "train", OneLabel()))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_files(tmp_path, pack):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    labels = np.array([7, 1, 7, 0, 3], np.uint8)
    files = (str(tmp_path / "images"), str(tmp_path / "labels"))
    Path(files[0]).write_bytes(pack(idx_bytes(pixels)))
    Path(files[1]).write_bytes(pack(idx_bytes(labels)))
    rows = list(read_rows(Data(train=files, format="idx"), "train", OneLabel()))
    assert [row.labels for row in rows] == [("7",), ("1",), ("7",), ("0",), ("3",)]
    for row, picture_ in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), picture_)
    numbers = list(read_rows(Data(train=files, format="idx"), "train", Number()))
    assert [row.labels for row in numbers] == [(repr(float(label)),) for label in labels]
    Path(files[1]).write_bytes(pack(idx_bytes(labels[:4])))
    with pytest.raises(InputError, match=r"5 images, .* 4 labels"):
        list(read_rows(Data(train=files, format="idx"), "train", OneLabel()))
    for content in (idx_bytes(pixels)[:-1], idx_bytes(pixels) + b"\0"):
        Path(files[0]).write_bytes(pack(content))
        with pytest.raises(InputError, match=r"images: .* bytes do not hold 5x6x4 values"):
            list(read_rows(Data(train=files, format="idx"), "train", OneLabel()))
    Path(files[0]).write_bytes(pack(b"\0\0\x0b\3" + idx_bytes(pixels)[4:]))  # as of numbers of 16 bits
    with pytest.raises(InputError, match="images: not an IDX file of bytes with 3 axes"):
        list(read_rows(Data(train=files, format="idx"), "train", OneLabel()))
    Path(files[0]).write_bytes(pack(idx_bytes(pixels)[:9]))
    with pytest.raises(InputError, match=r"9 bytes do not hold .* truncated"):
        list(read_rows(Data(train=files, format="idx"), "train", OneLabel()))
    with pytest.raises(InputError, match="labels: not an IDX file of bytes with 3 axes"):
        list(read_rows(Data(train=files[::-1], format="idx"), "train", OneLabel()))
    with pytest.raises(InputError, match="2 files, images then labels"):
        Data(train=files[:1], format="idx")


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_parquet_with_encoded_images(place, tmp_path):
    draw = np.random.default_rng(0)
    contents = [png(picture(i % 3, draw)) for i in range(12)]
    values = [{"bytes": content, "path": None} for content in contents]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"img": values, "label": [i % 3 for i in range(12)]}), file)
    data = Data(train=(str(file),), image="img", label_names=("red", "green", "blue"), dev_fraction=0.0)
    rows = list(read_rows(data, "train", OneLabel()))
    assert [row.image for row in rows] == contents
    assert rows[4].labels == ("green",)
    parquet.write_table(pyarrow.table({"img": [*contents[:2], b"no image"], "label": [0, 1, 2]}), file)
    with pytest.raises(InputError, match=r"rows\.parquet:row 3: not a readable image"):
        list(read_rows(data, "train", OneLabel()))
    with pytest.raises(InputError, match=r"has no column 'image'.*set data\.image"):
        list(read_rows(Data(train=(str(file),), image="image"), "train", OneLabel()))


def test_images_of_tfds(tmp_path, monkeypatch):
    """A TFDS folder as its own builders write it, by name from its data directory."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 1), np.uint8)

    with registered.skip_registration():

        class Pictures(tfds.core.GeneratorBasedBuilder):
            """Grey pictures."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                label = tfds.features.ClassLabel(names=["cat", "dog"])
                features = tfds.features.FeaturesDict(
                    {"image": tfds.features.Tensor(shape=(5, 4, 1), dtype=np.uint8), "label": label}
                )
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, download_manager):
                return {"train": ((i, {"image": p, "label": i % 2}) for i, p in enumerate(pixels))}

            def _generate_examples(self):
                return ()

    tfds.disable_progress_bar()
    Pictures(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    rows = list(read_rows(Data(train=("tfds:pictures",), image="image"), "train", OneLabel()))
    assert [row.labels for row in rows] == [("cat",), ("dog",), ("cat",)]
    for row, expected in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), expected[..., 0])


def test_arrays_are_kept_as_pnm():
    for shape in ((3, 2), (3, 2, 1), (3, 2, 3)):
        pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        found = np.asarray(Image.open(io.BytesIO(pnm(pixels))))
        np.testing.assert_array_equal(found.reshape(shape), pixels)


def test_text_on_an_image_backbone_and_images_on_a_text_backbone(place, tiny, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    from adapters.specs import Classification

    text = Data(train=(str(tmp_path / "rows.csv"),), dev_fraction=0.0)
    with pytest.raises(InputError, match=r"the rows hold text, but the backbone .* takes images"):
        load_data(text, Classification(), load_backbone(place / "backbone"))
    images = Data(train=(str(place / "test"),), format="image_folder", dev_fraction=0.0)
    with pytest.raises(InputError, match=r"the rows hold images, but the backbone .* takes text"):
        load_data(images, Classification(), tiny)
