"""The Open Inference Protocol v2: https://github.com/kserve/open-inference-protocol.

A model is a task. A model version is a version of the task's graft. The input is one BYTES tensor `text`.
Shape letters: `N` texts, `C` labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from starlette.requests import Request

from backbone.errors import InputError, shown
from serving.bank import Envelope
from serving.server.app import Server
from serving.server.endpoint import OPTIONAL, Body, Endpoint, Error, Protocol, Schema, TaskAnswers, inference
from serving.server.limits import Limits
from serving.server.openapi import FREE, TEXT, TIMEOUT_MS, WHOLE, array, nullable, record, texts
from serving.server.reading import Question, json_object, only_fields, optional_object, seconds, strings, within
from serving.submodels import ScopeCost, Submodels

DATATYPES = {"labels": "BYTES", "probabilities": "FP32", "out_of_scope_score": "FP32", "abstained": "BOOL"}
SCOPED = ("out_of_scope_score", "abstained")  # outputs of grafts with an out-of-scope score only


@dataclass(frozen=True)
class BackboneIds:
    """The backbone that every graft of this server is on."""

    weights_id: str
    preprocessing_id: str


@dataclass(frozen=True)
class ServerMetadata:
    """The server, its backbone, and what it can hold."""

    name: str
    version: str
    extensions: tuple[str, ...]
    backbone: BackboneIds
    envelope: Envelope
    buckets: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    limits: Limits


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor without its data; a length of -1 is that of the request."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelParameters:
    """Values for which the protocol has no field."""

    labels: tuple[str, ...]
    head: str
    methods: tuple[str, ...]
    group: str
    content_id: str
    generation: int
    max_tokens: int
    out_of_scope: ScopeCost | None
    submodels: Submodels


@dataclass(frozen=True)
class Model:
    """One version of a task."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: ModelParameters


@dataclass(frozen=True)
class ModelReady:
    """A version whose graft loads."""

    name: str
    ready: bool


@dataclass(frozen=True)
class Tensor:
    """A tensor, its data in one flat list."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Any, ...]


@dataclass(frozen=True)
class AnswerParameters:
    """The source of the answers; `submodels` has an entry for each text."""

    content_id: str
    generation: int
    submodel: str
    submodels: tuple[str, ...]


@dataclass(frozen=True)
class Inferred:
    """The outputs for the texts, in their order."""

    id: str | None = field(metadata=OPTIONAL)
    model_name: str
    model_version: str
    parameters: AnswerParameters
    outputs: tuple[Tensor, ...]


async def server_metadata(server: Server, request: Request) -> ServerMetadata:
    """Returns what the server is and can hold."""
    runtime = server.runtime
    return ServerMetadata(
        "topgraft",
        version("topgraft"),
        ("predict",),
        BackboneIds(runtime.backbone.weights_id, runtime.backbone.preprocessing_id),
        runtime.envelope,
        runtime.programs.buckets,
        runtime.programs.sizes,
        server.limits,
    )


async def model(server: Server, request: Request) -> Model:
    """Returns the inputs, outputs and properties of a version."""
    served = await server.served(request)
    graft, runtime = await server.loaded(served), server.runtime
    names = tuple(name for name in DATATYPES if graft.scope is not None or name not in SCOPED)
    shapes = {"probabilities": (-1, len(graft.labels))}
    outputs = tuple(TensorMetadata(name, DATATYPES[name], shapes.get(name, (-1,))) for name in names)
    parameters = ModelParameters(
        labels=graft.labels,
        head=graft.head.kind,
        methods=graft.methods,
        group=f"{graft.group}: {runtime.banks[graft.group].group.title()}",
        content_id=served.content_id,
        generation=served.generation,
        max_tokens=graft.max_tokens,
        out_of_scope=runtime.scope_cost(graft),
        submodels=runtime.submodels_of(graft),
    )
    text = TensorMetadata("text", "BYTES", (-1,))
    return Model(served.task, (served.version,), "topgraft_jax", (text,), outputs, parameters)


async def model_ready(server: Server, request: Request) -> ModelReady:
    """Loads the version if it is not on the host, and returns that it is ready."""
    served = await server.served(request)
    await server.loaded(served)
    return ModelReady(served.task, True)


def read(body: bytes, names: Mapping[str, str], limits: Limits) -> Question:
    """Reads an inference request with one input `text`; raises InputError."""
    content = json_object(body)
    only_fields(content, ("id", "parameters", "inputs", "outputs"))
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("id: expected a string")
    parameters = optional_object(content.get("parameters"), "parameters", ("timeout_ms",))
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError("inputs: expected one tensor named text")
    tensor = inputs[0]
    only_fields(tensor, ("name", "shape", "datatype", "parameters", "data"), "inputs[0].")
    optional_object(tensor.get("parameters"), "inputs[0].parameters")
    data = strings(tensor.get("data"), "inputs[0].data")
    for name, expected in (("name", "text"), ("datatype", "BYTES"), ("shape", [len(data)])):
        if tensor.get(name) != expected:
            raise InputError(f"inputs[0].{name}: expected {expected!r}, got {shown(tensor.get(name))}")
    if isinstance(tensor["shape"][0], bool):
        raise InputError(f"inputs[0].shape: expected [{len(data)}], got {shown(tensor['shape'])}")
    timeout = seconds(parameters.get("timeout_ms"), limits)
    return within(Question((names["task"],), data, timeout, _output_names(content), identity), limits)


def _output_names(content: dict[str, Any]) -> tuple[str, ...]:
    outputs = content.get("outputs")
    if outputs is None:
        return ()
    if not isinstance(outputs, list) or not outputs or not all(isinstance(item, dict) for item in outputs):
        raise InputError("outputs: expected a list of objects, not empty")
    for item in outputs:
        only_fields(item, ("name", "parameters"), "outputs.")
        optional_object(item.get("parameters"), "outputs.parameters")
        if not isinstance(item.get("name"), str) or item["name"] not in DATATYPES:
            raise InputError(f"outputs: {shown(item.get('name'))} is none of {', '.join(DATATYPES)}")
    return tuple(item["name"] for item in outputs)


def respond(question: Question, tasks: Sequence[TaskAnswers]) -> Inferred:
    """Returns `labels` BYTES [N], each a JSON list of names, and `probabilities` FP32 [N,C] in the order of the labels.

    A graft with an out-of-scope score also gives `out_of_scope_score` FP32 [N], above 1 beyond its threshold, and
    `abstained` BOOL [N]. Raises InputError if these are requested of another graft.
    """
    (task,) = tasks
    scoped, first = task.graft.scope is not None, task.answers[0]
    if not scoped and (lacking := [name for name in question.outputs if name in SCOPED]):
        raise InputError(f"outputs: {lacking[0]}: this graft has no out-of-scope score")
    names = question.outputs or tuple(name for name in DATATYPES if scoped or name not in SCOPED)
    submodels = tuple(answer.submodel for answer in task.answers)
    return Inferred(
        question.id,
        first.task,
        first.version,
        AnswerParameters(first.content_id, first.generation, task.submodel, submodels),
        tuple(_tensor(name, task) for name in names),
    )


def _tensor(name: str, task: TaskAnswers) -> Tensor:
    labels, answers = task.graft.labels, task.answers
    columns: dict[str, Callable[[], tuple[Any, ...]]] = {
        "labels": lambda: tuple(json.dumps(answer.labels, ensure_ascii=False) for answer in answers),
        "probabilities": lambda: tuple(answer.probabilities[label] for answer in answers for label in labels),
        "out_of_scope_score": lambda: tuple(answer.out_of_scope for answer in answers),
        "abstained": lambda: tuple(answer.abstained for answer in answers),
    }
    shape = (len(answers), len(labels)) if name == "probabilities" else (len(answers),)
    return Tensor(name, DATATYPES[name], shape, columns[name]())


def schema(limits: Limits) -> Schema:
    """Returns the JSON schema of an inference request."""
    tensor = record(
        {
            "name": {"const": "text"},
            "datatype": {"const": "BYTES"},
            "shape": array(WHOLE, minItems=1, maxItems=1),
            "data": texts(limits),
        },
        {"parameters": nullable(FREE)},
    )
    output = record({"name": {"enum": list(DATATYPES)}}, {"parameters": nullable(FREE)})
    optional = {
        "id": nullable(TEXT),
        "outputs": nullable(array(output, minItems=1)),
        "parameters": nullable(record({}, {"timeout_ms": nullable(TIMEOUT_MS)})),
    }
    return record({"inputs": array(tensor, minItems=1, maxItems=1)}, optional)


def _of_a_model(path: str) -> tuple[Endpoint, ...]:
    return (
        Endpoint(path, model, {200: Model, 404: Error, 503: Error}),
        Endpoint(f"{path}/ready", model_ready, {200: ModelReady, 404: Error, 503: Error}),
        inference(f"{path}/infer", read, respond, body=Body("Infer", schema), reply=Inferred),
    )


class OpenInference(Protocol, tag="open_inference"):
    """Metadata and inference; the probes of the process are in `health.py`."""

    endpoints = (
        Endpoint("/v2", server_metadata, {200: ServerMetadata}),
        *_of_a_model("/v2/models/{task}"),
        *_of_a_model("/v2/models/{task}/versions/{version}"),
    )
