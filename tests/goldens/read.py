"""Golden files of the families, read: what transformers computed on PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open

from backbone.exchange.importing import bind
from backbone.network.encoder import Network
from tests.families import family_of

ROOT = Path(__file__).resolve().parents[2]
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
