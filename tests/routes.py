"""Grafts of several tasks whose words differ, stored with rows of their own, for routers."""

from __future__ import annotations

import random
from pathlib import Path

import jax
import numpy as np

from adapters.artefact.manifest import Training
from adapters.artefact.write import save_graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.records import encode
from backbone.trees import flatten, unflatten
from tests.tiny import WORDS, write_csv
from trainers.config import Data

TASKS = ("corn", "rye", "oats")


def texts_of(number: int, count: int, seed: int = 0) -> list[str]:
    """Texts of the words of one task; number 3 is that of no task."""
    draw = random.Random(100 * seed + number)
    words = WORDS[number::4][:15]
    return [" ".join(draw.choice(words) for _ in range(draw.choice((4, 6, 12)))) for _ in range(count)]


def stored(folder: Path, backbone, name: str, number: int, *, method=None, head=None, count=120, seed=None) -> Path:
    """A graft of random numbers whose own rows are those of the task `number`."""
    table = [(text, f"c{place % 2}") for place, text in enumerate(texts_of(number, count))]
    folder.mkdir(exist_ok=True, parents=True)
    data = Data(train=(str(write_csv(folder / f"{name}.csv", table)),), max_tokens=48)
    model = GraftModel(backbone.network, (method or Lora(rank=2, blocks="1:"),), head or Classification(), ("c0", "c1"))
    draw = np.random.default_rng(number if seed is None else seed)
    leaves = flatten(model.init(jax.random.key(0)))
    params = unflatten({p: (x + 0.3 * draw.normal(size=x.shape)).astype(np.float32) for p, x in leaves.items()})
    config = {"data": encode(data), "backbone_path": str(backbone.path)}
    training = Training(config, {"seed": 0}, {}, {}, {}, {})
    save_graft(folder / name, model, params, backbone, name=name, max_tokens=48, training=training)
    return folder / name
