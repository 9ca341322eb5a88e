"""Several classifiers on one adapter: a row belongs to one task, and has one label of it.

A label is written `TASK/LABEL`, as `books/positive`. The labels of a task are a softmax of their own, so that the loss
is that of one linear head for each task on shared features (hard parameter sharing, Caruana 1997, section 2). Where the
task of a row is not known, the head answers for every task.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapters.heads.columns import LabelFields, Labels, Layout, OneLabel
from adapters.heads.head import UNLIKELY, RowHead, Softmax, cross_entropy, softmax
from adapters.predictions import Prediction, labelled
from backbone.errors import InputError
from backbone.lazy import jnp, optax

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts

SEPARATOR = "/"  # between a task and a label of it; the first one counts
OTHER = -1.0  # entry of an encoded label: the name is one of another task


def task_of(name: str) -> str:
    """Returns the task of a label."""
    return name.partition(SEPARATOR)[0]


class TaskLabel(OneLabel):
    """A label of one of several tasks, encoded as float32 [N,C]: 1, 0 for others of its task, -1 for other tasks."""

    cells: ClassVar[tuple[Any, ...]] = ("b/x", "a/y", "b/y", "a/x", "a/y")

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        names = super().names(labels, data)
        if bare := [name for name in names if not (task_of(name) and name.partition(SEPARATOR)[2])]:
            raise InputError(
                f"data.label: {bare[0]!r} names no task; head.kind=tasks reads TASK{SEPARATOR}LABEL, as books/positive"
            )
        tasks = [task_of(name) for name in names]
        if lonely := [task for task in tasks if tasks.count(task) < 2]:
            raise InputError(f"data.label: task {lonely[0]!r} has one label only; a classifier needs at least two")
        return names

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        numbers, tasks = super().encode(labels, names, where, layout), np.array([task_of(name) for name in names])
        encoded = np.where(tasks[None] == tasks[numbers][:, None], 0.0, OTHER).astype(np.float32)
        encoded[np.arange(len(numbers)), numbers] = 1.0
        return encoded

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        return super().carries(labels.argmax(axis=1), numbers)

    def shares(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return super().shares(labels.argmax(axis=1), classes)

    def majority(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return super().majority(labels.argmax(axis=1), classes)


@dataclass(frozen=True)
class Tasks(Softmax, RowHead, tag="tasks"):
    """One label per row, of the row's task: softmax cross-entropy over the labels of that task alone.

    Logits [B,C] = dropout(pool(hidden)) W + b; labels float32 [B,C] of 1, 0, and -1 for labels of other tasks.
    `probabilities` are over the labels of all tasks; `answers` and metrics compare those of one task.
    """

    metrics = ("accuracy", "macro_f1", "matthews")
    column = TaskLabel()
    supports = frozenset({"pairs", "retrain"})

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            jnp.where(labels > OTHER, logits, UNLIKELY), labels.argmax(axis=1)
        )

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return cross_entropy(np.where(labels > OTHER, logits, UNLIKELY), labels.argmax(axis=1))

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        from adapters.scores import Confusion

        return Confusion.of(labels.argmax(axis=1), _within(probabilities, labels), loss, len(names))

    def mistakes(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (_within(logits, labels) != labels.argmax(axis=1)).astype(int)

    def answers(
        self,
        names: tuple[str, ...],
        logits: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        abstain: bool = False,
        texts: Sequence[Any] = (),
        places: Sequence[np.ndarray] = (),
    ) -> list[Prediction]:
        """Returns one label of every task for each row of logits float32 [N,C]; probabilities are those of its task."""
        tasks = np.array([task_of(name) for name in names])
        groups = [np.flatnonzero(tasks == task) for task in dict.fromkeys(tasks)]
        probabilities, chosen = np.empty_like(logits), np.empty((len(logits), len(groups)), int)
        for number, group in enumerate(groups):
            probabilities[:, group] = softmax(logits[:, group])
            chosen[:, number] = group[logits[:, group].argmax(axis=1)]
        return labelled(names, probabilities, chosen.tolist(), scores, abstain=abstain)


def _within(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of the highest score [N,C] among the labels of each row's task, int [N]."""
    return np.where(labels > OTHER, scores, -np.inf).argmax(axis=1)
