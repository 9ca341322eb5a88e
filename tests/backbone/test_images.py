"""Image preprocessing: what is published, what is decoded, and what its id covers."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from backbone import images
from backbone.errors import InputError
from backbone.exchange.importing import import_backbone
from backbone.images import FILE, ImagePreprocessing, from_published, patches
from backbone.spec import ImageSpec
from backbone.storage import load_backbone
from tests.families import config_of
from tests.goldens.read import GOLDENS
from tests.tiny_images import encoded

IMAGE = ImageSpec(size=16, patch=8, mean=(0.5,) * 3, std=(0.5,) * 3)
PUBLISHED = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "size": {"height": 16, "width": 16}}


def test_an_image_of_the_right_size_is_cut_into_patches_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    row = ImagePreprocessing(IMAGE, 16).encode([encoded(Image.fromarray(pixels))])[0]
    assert (row.shape, row.dtype) == ((5, 192), np.uint8)
    np.testing.assert_array_equal(row[2].reshape(8, 8, 3), pixels[:8, 8:])
    np.testing.assert_array_equal(row, patches(pixels, IMAGE))


def test_sizes_crops_modes_and_orientation():
    left = Image.new("RGB", (40, 20), "red")
    left.paste("blue", (20, 0, 40, 20))
    squeezed = ImagePreprocessing(IMAGE, 16).pixels(left)
    assert squeezed[8, 2].tolist() == [255, 0, 0]
    assert squeezed[8, 13].tolist() == [0, 0, 255]
    kept = ImagePreprocessing(IMAGE, 18, keep_ratio=True, resample="nearest").pixels(left)
    assert kept.shape == (16, 16, 3)
    assert (kept[0, 7].tolist(), kept[0, 8].tolist()) == ([255, 0, 0], [0, 0, 255]), "the centre is cut out"
    grey = ImagePreprocessing(replace(IMAGE, mean=(0.5,), std=(0.5,)), 16)
    assert grey.pixels(left).shape == (16, 16, 1)
    assert ImagePreprocessing(IMAGE, 16).pixels(Image.new("L", (16, 16), 7))[0, 0].tolist() == [7, 7, 7]
    turned = Image.new("RGB", (16, 16), "red")
    turned.paste("blue", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    row = ImagePreprocessing(IMAGE, 16).encode([stream.getvalue()])[0]
    assert row[1, :3].tolist() == [255, 0, 0], "EXIF is obeyed"


def test_sixteen_bits_of_grey_keep_their_high_byte_and_other_depths_are_refused():
    grey = ImagePreprocessing(replace(IMAGE, mean=(0.5,), std=(0.5,)), 16)
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    shallow = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(grey.encode([encoded(deep, kind)])[0], grey.encode([encoded(shallow, kind)])[0])
    with pytest.raises(InputError, match="pixels of mode F; save it with 8 or 16 bits a channel"):
        grey.encode([encoded(Image.new("F", (16, 16)), "TIFF")])


@pytest.mark.parametrize("side", [374, 380, 603, 768])
def test_the_shorter_side_is_never_a_pixel_short(side):
    """224 / 374 * 374 is 223.99..., which cut to whole pixels would leave a black row."""
    image = replace(IMAGE, size=224)
    for size in ((side, side + 9), (side + 9, side)):
        pixels = ImagePreprocessing(image, 224, keep_ratio=True).pixels(Image.new("RGB", size, "white"))
        assert pixels.min() == 255


def test_what_cannot_be_read_names_the_culprit(tmp_path):
    preprocessing = ImagePreprocessing(IMAGE, 16)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    with pytest.raises(InputError, match=r"bad\.jpg: not a readable image"):
        preprocessing.encode([tmp_path / "bad.jpg"])
    (tmp_path / "far.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(InputError, match=r"far\.png: not a readable image: a Git LFS pointer; run `git lfs pull`"):
        preprocessing.encode([tmp_path / "far.png"])
    with pytest.raises(InputError, match=r"none\.png: cannot be read"):
        preprocessing.encode([str(tmp_path / "none.png")])
    with pytest.raises(InputError, match=r"images\[1\]: not a readable image"):
        preprocessing.encode([encoded(Image.new("RGB", (3, 3))), b""])
    with pytest.raises(InputError, match=r"images\[0\]: expected the name of a file or encoded bytes, got int"):
        preprocessing.encode([3])


def test_transparency_is_dropped_and_cmyk_converted_as_transformers_does():
    """`load_image` of transformers ends in `image.convert("RGB")`."""
    draw = np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 256, (16, 16, 4), np.uint8), "RGBA")
    palette = colours.convert("RGB").quantize(8)
    contents = [encoded(colours), encoded(colours.convert("RGB").convert("CMYK"), "JPEG"), encoded(palette)]
    contents += [encoded(Image.fromarray(draw.integers(0, 256, (16, 16, 2), np.uint8), "LA"))]
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=bytes(range(0, 256, 32)))
    for content in (*contents, stream.getvalue()):
        published = Image.open(io.BytesIO(content)).convert("RGBA" if content is stream.getvalue() else "RGB")
        expected = patches(np.asarray(published.convert("RGB")), IMAGE)
        np.testing.assert_array_equal(ImagePreprocessing(IMAGE, 16).encode([content])[0], expected)


def test_sizes_are_bounded_by_the_header_and_before_resizing(monkeypatch):
    def header(width, height):
        """A PNG of one bit a pixel without its pixels."""
        size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        made = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(made)

    preprocessing = ImagePreprocessing(IMAGE, 16)
    for size in ((1 << 14, (1 << 13) + 1), (1 << 20, 1 << 20)):
        with pytest.raises(InputError, match=r"images\[0\]: .*more than 134,217,728.*save it smaller"):
            preprocessing.encode([header(*size)])
    narrow = ImagePreprocessing(IMAGE, 18, keep_ratio=True)
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match=r"images\[0\]: 1 x 400 pixels would be resized to 18 x 7200; cut out"):
        narrow.encode([encoded(Image.new("L", (1, 400)))])
    assert len(narrow.encode([encoded(Image.new("L", (4, 40)))])) == 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_images_of_several_frames_are_refused_and_those_of_one_read(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"images\[0\]: holds 3 frames or pages; save the one that is meant"):
        ImagePreprocessing(IMAGE, 16).encode([stream.getvalue()])
    assert len(ImagePreprocessing(IMAGE, 16).encode([encoded(frames[0], kind)])) == 1


def test_the_first_image_of_a_cameras_file_is_read():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "MPO", save_all=True, append_images=frames[1:])
    row = ImagePreprocessing(IMAGE, 16).encode([stream.getvalue()])[0]
    np.testing.assert_array_equal(row, ImagePreprocessing(IMAGE, 16).encode([encoded(frames[0], "JPEG")])[0])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_damaged_images_are_errors_of_input_whatever_pillow_raises(kind):
    draw = np.random.default_rng(0)
    content = encoded(Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)), kind)
    preprocessing = ImagePreprocessing(IMAGE, 16)
    for cut in range(1, len(content) - 30, 7):
        with pytest.raises(InputError, match=r"images\[0\]: not a readable image: ."):
            preprocessing.encode([content[:cut]])
    for _ in range(60):
        damaged = bytearray(content)
        for place in draw.integers(0, len(content), 3):
            damaged[place] = draw.integers(0, 256)
        with contextlib.suppress(InputError):
            preprocessing.encode([bytes(damaged)])


def test_published_settings():
    found = from_published(PUBLISHED | {"resample": 3}, IMAGE, "p.json")
    assert found == ImagePreprocessing(
        replace(IMAGE, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), resize=16, resample="bicubic"
    )
    cropped = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    found = from_published(PUBLISHED | cropped, IMAGE, "p.json")
    assert (found.resize, found.keep_ratio) == (20, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", {"height": 16, "width": 20}),
        ("size", {"shortest_edge": 16}),
        ("size", 32),
        ("do_resize", False),
        ("rescale_factor", 1.0),
        ("image_mean", [0.5]),
        ("resample", 9),
    ],
)
def test_published_settings_that_are_not_supported_name_the_field(field, value):
    with pytest.raises(InputError, match=f"p.json: {field}"):
        from_published(PUBLISHED | {field: value}, IMAGE, "p.json")


def test_the_id_covers_every_setting():
    plain = ImagePreprocessing(IMAGE, 16)
    others = [
        replace(plain, resize=20),
        replace(plain, resample="bicubic"),
        replace(plain, keep_ratio=True),
        replace(plain, image=replace(IMAGE, mean=(0.4, 0.5, 0.5))),
    ]
    assert len({p.preprocessing_id for p in (plain, *others)}) == 5
    assert ImagePreprocessing.from_file_text(plain.file_text, "f") == plain


def test_an_image_backbone_is_imported_loaded_and_verified(tmp_path):
    source = tmp_path / "hf"
    source.mkdir()
    tensors = load_file(GOLDENS / "vit.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("states.")}
    kept["classifier.weight"] = np.zeros((2, 32), np.float32)
    save_file(kept, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config_of("vit")))
    with pytest.raises(InputError, match=r"preprocessor_config\.json: missing"):
        import_backbone(source, tmp_path / "out")
    (source / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    report = import_backbone(source, tmp_path / "out")
    assert report.ignored == ("classifier.weight",)
    loaded = load_backbone(tmp_path / "out")
    assert loaded.spec.image.mean == (0.1, 0.2, 0.3)
    assert loaded.lengths == (5,)
    assert report.preprocessing_id == loaded.preprocessing_id
    file = tmp_path / "out" / FILE
    file.write_text(file.read_text().replace("bilinear", "bicubic"))
    with pytest.raises(InputError, match="preprocessing_id"):
        load_backbone(tmp_path / "out")
