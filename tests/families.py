"""The example of every family as the suites use it: configs, token rows, images."""

from __future__ import annotations

from typing import Any

import numpy as np

from backbone.families import Family
from backbone.families.family import EXAMPLE_VOCABULARY
from backbone.variants.registered import variants

LENGTHS = (24, 17, 5)  # of the rows of the goldens: longer than ModernBERT's window of 4 on either side

CONFIGS: dict[str, dict[str, Any]] = {name: family.example_config() for name, family in variants(Family).items()}
TEXT = tuple(name for name, config in CONFIGS.items() if "image_size" not in config)


def family_of(name: str) -> Family:
    """Returns a family that comes with Topgraft."""
    return variants(Family)[name]()


def config_of(name: str) -> dict[str, Any]:
    """Returns what `config.json` holds."""
    return {"model_type": name, **CONFIGS[name]}


def token_rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    """Returns token ids without those of special tokens."""
    draw = np.random.default_rng(seed)
    return [draw.integers(5, EXAMPLE_VOCABULARY, n).astype(np.int32) for n in lengths]


def images(name: str, count: int = 3, seed: int = 0) -> np.ndarray:
    """Returns pixels uint8 [N,S,S,C]."""
    config = CONFIGS[name]
    shape = (count, config["image_size"], config["image_size"], config["num_channels"])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
