"""Grafts in memory for a runtime, some with early exits, and a device that is held up."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import numpy as np

from adapters.artefact.exits import Exits
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification
from serving.runtime import Runtime
from tests.grafts import nonzero
from tests.tiny import rows
from trainers.scoring.risk import taken

TEXTS = [text for text, _ in rows(12)]


def graft(tiny, spec, head=None, labels=3, seed=0, max_tokens=48) -> Graft:
    methods = (spec,) if spec is not None else ()
    model = GraftModel(tiny.network, methods, head or Classification(), tuple(f"l{i}" for i in range(labels)))
    return Graft(model, nonzero(model, seed), tiny, max_tokens)


def held_up(runtime: Runtime) -> threading.Event:
    """Keeps the device thread until the event is set."""
    started, gate = threading.Event(), threading.Event()
    runtime.call(lambda: started.set() or gate.wait(60))
    assert started.wait(60)
    return gate


BOUNDARIES = (1, 2)


def with_exits(one: Graft, seed: int, boundaries=BOUNDARIES) -> Graft:
    """Heads of random numbers, and a threshold that lets some of TEXTS leave at each and some not."""
    labels, count = len(one.model.labels), len(boundaries)
    _, pooled = one.logits_and_pooled(one.encode(TEXTS), boundaries)
    for draw in (np.random.default_rng(seed + 100 * attempt) for attempt in range(100)):
        kernels = 0.4 * draw.normal(size=(count, 32, labels)).astype(np.float32)
        exits = Exits(boundaries, kernels, np.zeros((count, labels), np.float32), 0.5, 0.1, 0.9, 99, 0, (0.1,) * count)
        sure = np.stack(
            [exits.head.confidence(exits.logits(e, x)) for e, x in enumerate(np.split(pooled, count, axis=1))], axis=1
        )
        for low, high in itertools.pairwise(np.unique(sure).tolist()):
            # in the middle between two confidences: a last bit decides nothing
            if high - low > 1e-3 and len(set(taken(sure, (low + high) / 2))) == count + 1:
                return replace(one, exits=replace(exits, threshold=(low + high) / 2))
    raise AssertionError("no threshold parts the texts")
