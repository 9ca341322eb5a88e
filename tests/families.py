"""The example of every family as the suites use it: configs, token rows, images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from backbone.encoder import Network
from backbone.families import Family
from backbone.families.family import EXAMPLE_VOCABULARY
from backbone.importing import bind
from backbone.registered import variants

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


ROOT = Path(__file__).resolve().parents[1]
GOLDENS = ROOT / "tests" / "goldens" / "families"


def golden(family: str):
    """Network, parameters and expected states of a family's golden file."""
    with safe_open(GOLDENS / f"{family}.safetensors", framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    states = [tensors.pop(f"states.{i}") for i in range(sum(name.startswith("states.") for name in tensors))]
    known = family_of(family)
    spec = known.spec(config, {known.tensor_name(name) for name in tensors})
    params, _ = bind(known, spec, tensors)
    return Network(spec), jax.device_put(params), states
