"""A small task of the loop."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from tests.tiny import rows
from trainers.config import Optimizer, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.task import GraftTask


@pytest.fixture
def task(tiny) -> GraftTask:
    texts = rows(60, seed=4)
    tokens = tiny.preprocessing.encode([text for text, _ in texts], 48)
    labels = np.array([int(label[-1]) for _, label in texts], np.int32)
    examples = Examples(tokens, labels, tiny.lengths)
    model = GraftModel(tiny.network, (Lora(rank=2),), Classification(), ("a", "b", "c"))
    optimizer = Optimizer(learning_rate=1e-2, accumulate=2)
    settings = TrainConfig(optimizer=optimizer, epochs=2, batch_size=8, head_start="zero", checkpoint_seconds=0)
    return GraftTask(settings, model, tiny, examples, examples)
