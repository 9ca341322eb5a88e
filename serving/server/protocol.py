"""Requests and responses as JSON: the Open Inference Protocol v2 and `/predict`.

https://github.com/kserve/open-inference-protocol. A model is a task, a model version is a version of the
task's graft; the input is one BYTES tensor `text`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError, nearest
from serving.answers import Answer
from serving.residency import LoadedGraft
from serving.server.limits import Limits

OUTPUTS = ("labels", "probabilities", "out_of_scope_score", "abstained")
SCOPED = OUTPUTS[2:]  # only of grafts with an out-of-scope score


@dataclass(frozen=True)
class Question:
    """What a request asks."""

    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: float  # until it is worth nothing
    outputs: tuple[str, ...] = ()  # none named: all that the graft has
    id: str | None = None  # of the client, given back


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object; raises InputError."""
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError("the body must be a JSON object")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _known(content: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}{key}: unknown; {nearest(key, known)}")


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: expected a list of strings, not empty")
    return tuple(value)


def _checked(question: Question, limits: Limits) -> Question:
    for field, count, most in (
        ("inputs", len(question.texts), limits.inputs),
        ("tasks", len(question.tasks), limits.tasks),
    ):
        if count > most:
            raise InputError(f"{field}: {count} exceed the limit of {most}; send several requests")
    for number, text in enumerate(question.texts):
        if len(text) > limits.characters:
            raise InputError(f"inputs[{number}]: {len(text)} characters exceed the limit of {limits.characters}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(f"inputs[{number}]: holds a lone surrogate, which is no text") from None
    if len(set(question.tasks)) != len(question.tasks):
        raise InputError("tasks: a task is named twice")
    return question


def _seconds(value: Any, limits: Limits) -> float:
    if value is None:
        return limits.seconds
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise InputError(f"timeout_ms: expected a positive number, got {value!r}")
    return min(float(value) / 1e3, limits.seconds)


def read_predict(body: bytes, limits: Limits) -> Question:
    """`{"tasks": [...], "inputs": [...], "timeout_ms": 500}`."""
    content = parse(body)
    _known(content, ("tasks", "inputs", "timeout_ms"), "")
    question = Question(
        _strings(content.get("tasks"), "tasks"),
        _strings(content.get("inputs"), "inputs"),
        _seconds(content.get("timeout_ms"), limits),
    )
    return _checked(question, limits)


def read_infer(body: bytes, task: str, limits: Limits) -> Question:
    """An inference request of the protocol, with one input `text`."""
    content = parse(body)
    _known(content, ("id", "parameters", "inputs", "outputs"), "")
    identity, parameters = content.get("id"), content.get("parameters", {})
    if identity is not None and not isinstance(identity, str):
        raise InputError("id: expected a string")
    if not isinstance(parameters, dict):
        raise InputError("parameters: expected an object")
    _known(parameters, ("timeout_ms",), "parameters.")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError("inputs: expected one tensor named text")
    tensor = inputs[0]
    _known(tensor, ("name", "shape", "datatype", "parameters", "data"), "inputs[0].")
    texts = _strings(tensor.get("data"), "inputs[0].data")
    for field, wanted in (("name", "text"), ("datatype", "BYTES"), ("shape", [len(texts)])):
        if tensor.get(field) != wanted:
            raise InputError(f"inputs[0].{field}: expected {wanted!r}, got {tensor.get(field)!r}")
    question = Question((task,), texts, _seconds(parameters.get("timeout_ms"), limits), _outputs(content), identity)
    return _checked(question, limits)


def _outputs(content: dict[str, Any]) -> tuple[str, ...]:
    if "outputs" not in content:
        return ()
    asked = content["outputs"]
    if not isinstance(asked, list) or not asked or not all(isinstance(item, dict) for item in asked):
        raise InputError("outputs: expected a list of objects, not empty")
    names = []
    for item in asked:
        _known(item, ("name", "parameters"), "outputs.")
        if item.get("name") not in OUTPUTS:
            raise InputError(f"outputs: {item.get('name')!r} is none of {', '.join(OUTPUTS)}")
        names.append(item["name"])
    return tuple(names)


def infer_response(question: Question, answers: Sequence[Answer], prepared: LoadedGraft) -> dict[str, Any]:
    """`labels` BYTES [N], each a JSON list of names; `probabilities` FP32 [N,C] in the order of the labels.

    Of a graft with an out-of-scope score also `out_of_scope_score` FP32 [N], above 1 beyond its threshold, and
    `abstained` BOOL [N]; raises InputError where they are asked of another.
    """
    scoped = prepared.scope is not None
    if not scoped and (lacking := [name for name in question.outputs if name in SCOPED]):
        raise InputError(f"outputs: {lacking[0]}: this graft has no out-of-scope score")
    tensors: dict[str, dict[str, Any]] = {
        "labels": {
            "name": "labels",
            "datatype": "BYTES",
            "shape": [len(answers)],
            "data": [json.dumps(answer.labels, ensure_ascii=False) for answer in answers],
        },
        "probabilities": {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [len(answers), len(prepared.labels)],
            "data": [answer.probabilities[label] for answer in answers for label in prepared.labels],
        },
        "out_of_scope_score": {
            "name": "out_of_scope_score",
            "datatype": "FP32",
            "shape": [len(answers)],
            "data": [answer.out_of_scope for answer in answers],
        },
        "abstained": {
            "name": "abstained",
            "datatype": "BOOL",
            "shape": [len(answers)],
            "data": [answer.abstained for answer in answers],
        },
    }
    names = question.outputs or tuple(name for name in OUTPUTS if scoped or name not in SCOPED)
    first = answers[0]
    response: dict[str, Any] = {
        "model_name": first.task,
        "model_version": first.version,
        "parameters": {**_origin(answers), "submodels": [answer.submodel for answer in answers]},
        "outputs": [tensors[name] for name in names],
    }
    return response if question.id is None else {"id": question.id, **response}


def predict_response(question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
    """Answers by task, in the order of the inputs."""
    count, found = len(question.texts), {}
    for number, task in enumerate(question.tasks):
        own = answers[number * count : (number + 1) * count]
        predictions = [
            {
                "labels": list(a.labels),
                "probabilities": a.probabilities,
                "submodel": a.submodel,
                "out_of_scope_score": a.out_of_scope,
                "abstained": a.abstained,
            }
            for a in own
        ]
        found[task] = {"version": own[0].version, **_origin(own), "predictions": predictions}
    return {"answers": found}


def _origin(answers: Sequence[Answer]) -> dict[str, Any]:
    """What answered; the submodel is `mixed` where rows were answered by several."""
    submodels = {answer.submodel for answer in answers}
    submodel = submodels.pop() if len(submodels) == 1 else "mixed"
    return {"content_id": answers[0].content_id, "generation": answers[0].generation, "submodel": submodel}
