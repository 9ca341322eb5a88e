"""A tiny image encoder and small pictures of two colours that tell their class."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from backbone.images import ImagePreprocessing
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import save_backbone
from tests.tiny import random_params

IMAGE = ImageSpec(size=8, patch=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
SPEC = EncoderSpec(
    blocks=2,
    width=32,
    heads=4,
    mlp_width=48,
    vocabulary=0,
    positions=IMAGE.tokens,
    segments=0,
    pooler=False,
    norm="pre",
    embedding_norm=False,
    image=IMAGE,
)


def make_image_backbone(path: Path) -> Path:
    preprocessing = ImagePreprocessing(IMAGE, resize=8)
    save_backbone(path, SPEC, random_params(SPEC), preprocessing, {"source": "tests", "family": "vit"})
    return path


def picture(label: int, draw: np.random.Generator) -> Image.Image:
    """12 x 10 pixels of noise; class 0 is red, class 1 green, class 2 blue."""
    pixels = draw.integers(0, 100, (10, 12, 3), np.uint8)
    pixels[..., label] += 120
    return Image.fromarray(pixels)


def write_folder(root: Path, count: int, seed: int) -> Path:
    """`count` PNG files of each of three classes."""
    draw = np.random.default_rng(seed)
    for label, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(label, draw).save(root / name / f"{i}.png")
    return root


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
