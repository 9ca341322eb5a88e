"""`/route`: texts without a task. A router names the graft that answers each of them, or none (docs/lean.md)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from serving.answers import Answer
from serving.server.app import Server
from serving.server.endpoint import FAILURES, Body, Endpoint, Protocol, Schema, described
from serving.server.limits import Limits
from serving.server.openapi import TIMEOUT_MS, nullable, record, texts
from serving.server.reading import Question, json_object, only_fields, only_json, seconds, strings, within


@dataclass(frozen=True)
class RoutedText:
    """The answer for one text, and the version that gave it."""

    version: str | None
    content_id: str | None
    generation: int | None
    labels: tuple[str, ...]
    probabilities: dict[str, float]
    submodel: str | None
    task: str | None = described("task whose graft answered; null: no graft does")
    probability: float = described("probability of the most probable graft")
    out_of_scope_score: float | None = described("above 1: out of scope; null: the graft has no such score")
    abstained: bool = described("out of scope, and the graft gives no label there")


@dataclass(frozen=True)
class RoutedTexts:
    """Answers in the order of the inputs."""

    predictions: tuple[RoutedText, ...]
    router: str = described("content_id of the router")


def read(body: bytes, limits: Limits) -> Question:
    """Reads `{"inputs": [...], "timeout_ms": 500}`; raises InputError."""
    content = json_object(body)
    only_fields(content, ("inputs", "timeout_ms"))
    question = Question((), strings(content.get("inputs"), "inputs"), seconds(content.get("timeout_ms"), limits))
    return within(question, limits)


async def route(server: Server, request: Request) -> RoutedTexts:
    """Answers every text by the live version of the task that the router names for it."""
    only_json(request.headers)
    question = read(await server.body(request), server.limits)
    choices, rows = await server.choices(request, question)
    chosen = [place for place, choice in enumerate(choices) if choice.task is not None]
    request.state.tasks = tuple(dict.fromkeys(str(choices[place].task) for place in chosen))
    versions = {task: server.runtime.find(task) for task in request.state.tasks}
    submitted = [(versions[str(choices[place].task)], question.texts[place]) for place in chosen]
    routed = [rows[place] for place in chosen]
    answered = await server.answers_of_rows(request, submitted, question.seconds, routed) if chosen else []
    answers = dict(zip(chosen, (answer for _, answer in answered), strict=True))
    router = server.runtime.router
    assert router is not None
    predictions = tuple(_text(choice.probability, answers.get(place)) for place, choice in enumerate(choices))
    return RoutedTexts(predictions, router.record.content_id)


def _text(probability: float, answer: Answer | None) -> RoutedText:
    if answer is None:
        return RoutedText(None, None, None, (), {}, None, None, probability, None, False)
    return RoutedText(
        version=answer.version,
        content_id=answer.content_id,
        generation=answer.generation,
        labels=answer.labels,
        probabilities=answer.probabilities,
        submodel=answer.submodel,
        task=answer.task,
        probability=probability,
        out_of_scope_score=answer.out_of_scope,
        abstained=answer.abstained,
    )


def schema(limits: Limits) -> Schema:
    """Returns the JSON schema of a request."""
    return record({"inputs": texts(limits)}, {"timeout_ms": nullable(TIMEOUT_MS)})


class Route(Protocol, tag="route"):
    """Texts without a task."""

    endpoints = (Endpoint("/route", route, {200: RoutedTexts} | FAILURES, "POST", Body("Route", schema)),)
