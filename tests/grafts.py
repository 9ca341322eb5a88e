"""Grafts of random numbers on a backbone, in memory and stored."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from adapters.artefact.manifest import Manifest, Training
from adapters.artefact.write import save_graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.trees import flatten, unflatten

LABELS = ("first", "second", "third")
EMPTY = Training(config={}, seeds={"seed": 0}, data={}, metrics={}, costs={}, versions={})


def make(target: Path, backbone, spec=None, head=None, seed=0, training=EMPTY, max_tokens=48, noise=0.3, **options):
    model = GraftModel(backbone.network, (spec or Lora(rank=2),), head or Classification(), LABELS)
    draw = np.random.default_rng(seed)
    leaves = flatten(model.init(jax.random.key(seed)))
    params = unflatten(
        {p: (np.asarray(x) + noise * draw.normal(size=x.shape)).astype(np.float32) for p, x in leaves.items()}
    )
    manifest = save_graft(
        target, model, params, backbone, name="t", max_tokens=max_tokens, training=training, **options
    )
    return manifest, model, params


def nonzero(model: GraftModel, seed: int = 0, size: float = 0.3):
    """Parameters in which nothing is at its start."""
    draw = np.random.default_rng(seed)
    leaves = flatten(model.init(jax.random.key(seed)))
    return unflatten({p: jnp.asarray(x + size * draw.normal(size=x.shape), jnp.float32) for p, x in leaves.items()})


def manifest(method) -> Manifest:
    training = Training({}, {}, {}, {}, {}, {})
    return Manifest(1, "", "t", "w", "p", (method,), Classification(), ("a", "b"), 16, {}, (), {}, {}, training)
