"""`/predict`: several tasks on the same texts, with named fields instead of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.server.endpoint import Body, Protocol, Schema, TaskAnswers, described, inference
from serving.server.limits import Limits
from serving.server.openapi import TEXT, TIMEOUT_MS, array, nullable, record, texts
from serving.server.reading import Question, json_object, only_fields, seconds, strings, within


@dataclass(frozen=True)
class PredictedText:
    """The answer for one text."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    submodel: str
    out_of_scope_score: float | None = described("above 1: out of scope; null: the graft has no such score")
    abstained: bool = described("out of scope, and the graft gives no label there")


@dataclass(frozen=True)
class PredictedTask:
    """The answers of one task, and what gave them."""

    version: str
    content_id: str
    generation: int
    submodel: str
    predictions: tuple[PredictedText, ...]


@dataclass(frozen=True)
class Predicted:
    """Answers by task, in the order of the inputs."""

    answers: dict[str, PredictedTask]


def read(body: bytes, names: Mapping[str, str], limits: Limits) -> Question:
    """Reads `{"tasks": [...], "inputs": [...], "timeout_ms": 500}`; raises InputError."""
    content = json_object(body)
    only_fields(content, ("tasks", "inputs", "timeout_ms"))
    question = Question(
        strings(content.get("tasks"), "tasks"),
        strings(content.get("inputs"), "inputs"),
        seconds(content.get("timeout_ms"), limits),
    )
    return within(question, limits)


def respond(question: Question, tasks: Sequence[TaskAnswers]) -> Predicted:
    """Returns the answers by task."""
    return Predicted({name: _predicted(task) for name, task in zip(question.tasks, tasks, strict=True)})


def _predicted(task: TaskAnswers) -> PredictedTask:
    first = task.answers[0]
    predictions = tuple(
        PredictedText(a.labels, a.probabilities, a.submodel, a.out_of_scope, a.abstained) for a in task.answers
    )
    return PredictedTask(first.version, first.content_id, first.generation, task.submodel, predictions)


def schema(limits: Limits) -> Schema:
    """Returns the JSON schema of a request."""
    tasks = array(TEXT, minItems=1, maxItems=limits.tasks, uniqueItems=True)
    return record({"tasks": tasks, "inputs": texts(limits)}, {"timeout_ms": nullable(TIMEOUT_MS)})


class Predict(Protocol, tag="predict"):
    """Several tasks in one request."""

    endpoints = (inference("/predict", read, respond, body=Body("Predict", schema), reply=Predicted),)
