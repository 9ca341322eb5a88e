"""What the methods of `trainers.subsets` read about the train rows, each computed once, from cached states.

At 100,000 rows of width 384 the states take 154 MB. Nothing here holds a matrix of all pairs.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from backbone.cache import row_key
from trainers.fitting.features import features
from trainers.fitting.label_audit import held_out_logits
from trainers.inputs import Inputs
from trainers.runs.run import Run

EPOCHS = 20  # passes of the head whose forgetting is counted
BATCH = 32  # rows of a step
RATE = 2.0  # learning rate on states of length one


class TrainFacts:
    """The facts about the train rows of some inputs (`trainers.subsets.subset.RowFacts`)."""

    def __init__(self, inputs: Inputs, run: Run, seed: int):
        self._inputs, self._run, self._seed = inputs, run, seed

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the labels."""
        return self._inputs.data.labels

    @cached_property
    def keys(self) -> list[bytes]:
        """Returns the key of each row's tokens."""
        return [row_key(row) for row in self._inputs.train.rows]

    @cached_property
    def states(self) -> np.ndarray:
        """Returns pooled last states float32 [N,D], less their mean, each of length one.

        A head of tokens, or one with a learned query, has no fixed pooling; here it gets the mean.
        """
        inputs, head = self._inputs, self._inputs.config.head
        pooled = Classification() if head.pooling in ("tokens", "attention") else head
        model = GraftModel(inputs.backbone.network, (Probe(boundaries=(-1,)),), pooled, self.names)
        states = features(inputs.config.plan, model, inputs.backbone, {}, [inputs.train], self._run)[0]
        states -= states.mean(axis=0)
        states /= np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        return states

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Returns probabilities float32 [N,C] by a probe that has not seen the row."""
        head = self._inputs.config.head
        return np.asarray(head.probabilities(held_out_logits(self._inputs, self._run)))

    @cached_property
    def forgetting(self) -> np.ndarray:
        """Returns how often a linear head forgot each row, int [N]; -1 where it never learned it."""
        classes = self._inputs.config.head.classes(self._inputs.train.labels)
        assert classes is not None  # the config was refused otherwise
        return forgetting_of(self.states, classes, len(self.names), self._seed)


def forgetting_of(states: np.ndarray, classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns how often each row of `states` [N,D] is answered rightly, then wrongly; -1 where it is never right.

    A softmax over `count` labels is trained by plain steps. A row is looked at when its batch comes, before the step
    (Toneva et al. 2019, algorithm 1).
    """
    draw = np.random.default_rng(seed)
    kernel, bias = np.zeros((states.shape[1], count), np.float32), np.zeros(count, np.float32)
    right, ever = np.zeros(len(states), bool), np.zeros(len(states), bool)
    times = np.zeros(len(states), int)
    for _ in range(EPOCHS):
        order = draw.permutation(len(states))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            x, y = states[rows], classes[rows]
            logits = x @ kernel + bias
            now = logits.argmax(axis=1) == y
            times[rows] += right[rows] & ~now
            right[rows], ever[rows] = now, ever[rows] | now
            error = np.exp(logits - logits.max(axis=1, keepdims=True))
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(rows)), y] -= 1
            kernel -= RATE / len(rows) * (x.T @ error)
            bias -= RATE / len(rows) * error.sum(axis=0)
    return np.where(ever, times, -1)
