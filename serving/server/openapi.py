"""The OpenAPI document of the server, written by hand."""

from __future__ import annotations

from typing import Any

from serving.server.limits import Limits
from serving.server.protocol import OUTPUTS

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_WHOLE = {"type": "integer"}
_TOLD = {
    "400": "malformed, or beyond a limit",
    "404": "no such task or version",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "429": "overloaded; see Retry-After",
    "500": "the graft produced a value that is not a number",
    "503": "shutting down, or the graft does not load",
    "504": "the deadline passed",
}


def document(limits: Limits, tokens: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of the public port."""
    paths: dict[str, Any] = {
        "/": {"get": {"responses": {"200": _content("the page", _TEXT, "text/html")}}},
        "/v2": {"get": {"responses": _found("Server")}},
        "/v2/health/live": {"get": {"responses": _found("Live")}},
        "/v2/health/ready": {"get": {"responses": _found("Ready") | {"503": _content("not yet", _ref("Ready"))}}},
        "/tasks": {"get": {"responses": _found("Tasks")}},
        "/metrics": {"get": {"responses": {"200": _content("counters", _TEXT, "text/plain")}}},
        "/stats": {"get": {"responses": _found("Stats")}},
        "/openapi.json": {"get": {"responses": _found("Document")}},
        "/predict": {"post": _operation("Predict", "Predicted")},
    }
    task = _parameter("task", "name of a task")
    version = _parameter("version", "version of the task, as the registry numbers it")
    missing = {status: _content(_TOLD[status], _ref("Error")) for status in ("404", "503")}
    for place, parameters in (("{task}", [task]), ("{task}/versions/{version}", [task, version])):
        model = f"/v2/models/{place}"
        paths[model] = {"parameters": parameters, "get": {"responses": _found("Model") | missing}}
        paths[f"{model}/ready"] = {"parameters": parameters, "get": {"responses": _found("ModelReady") | missing}}
        paths[f"{model}/infer"] = {"parameters": parameters, "post": _operation("Infer", "Inferred")}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Topgraft", "version": "1", "description": "Open Inference Protocol v2, and /predict."},
        "paths": paths,
        "components": {"schemas": _schemas(limits)},
    }
    if tokens:
        description["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{"bearer": []}]
        for methods in paths.values():
            for name in methods.keys() - {"parameters"}:
                methods[name]["responses"]["401"] = _content("a bearer token is needed", _ref("Error"))
    return description


def _ref(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _content(text: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {media: {"schema": schema}}}


def _found(schema: str) -> dict[str, Any]:
    return {"200": _content("as asked", _ref(schema))}


def _operation(body: str, answer: str) -> dict[str, Any]:
    errors = {status: _content(text, _ref("Error")) for status, text in _TOLD.items()}
    request = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return {"requestBody": request, "responses": _found(answer) | errors}


def _parameter(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, *, closed: bool = True) -> dict[str, Any]:
    properties = required | (optional or {})
    return {
        "type": "object",
        "required": sorted(required),
        "properties": properties,
        **({"additionalProperties": False} if closed else {}),
    }


def _list(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def _schemas(limits: Limits) -> dict[str, Any]:
    free = {"type": "object"}
    texts = _list({"type": "string", "maxLength": limits.characters}, minItems=1, maxItems=limits.inputs)
    timeout = {"type": "number", "exclusiveMinimum": 0, "description": "milliseconds until it is worth nothing"}
    shape = _list(_WHOLE, minItems=1, maxItems=1)
    given = {"name": {"const": "text"}, "datatype": {"const": "BYTES"}, "shape": shape, "data": texts}
    wanted = _object({"name": {"enum": list(OUTPUTS)}}, {"parameters": free})
    infer = {
        "id": _TEXT,
        "outputs": _list(wanted, minItems=1),
        "parameters": _object({}, {"timeout_ms": timeout}),
    }
    origin = {"content_id": _TEXT, "generation": _WHOLE, "submodel": _TEXT}
    score = {"type": ["number", "null"], "description": "above 1: out of scope; null: the graft has no such score"}
    prediction = {
        "labels": _list(_TEXT),
        "probabilities": {"type": "object", "additionalProperties": _NUMBER},
        "submodel": _TEXT,
        "out_of_scope_score": score,
        "abstained": {"type": "boolean", "description": "out of scope, and the graft gives no label there"},
    }
    answer = _object({**origin, "version": _TEXT, "predictions": _list(_object(prediction))})
    tensor = _object({"name": _TEXT, "datatype": _TEXT, "shape": _list(_WHOLE)}, {"data": {"type": "array"}})
    served = {"task": _TEXT, "version": _TEXT, "content_id": _TEXT, "generation": _WHOLE}
    model = {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "parameters": free}
    told = _object({**origin, "submodels": _list(_TEXT)})
    inferred = {"model_name": _TEXT, "model_version": _TEXT, "parameters": told, "outputs": _list(tensor)}
    tasks = _list(_TEXT, minItems=1, maxItems=limits.tasks, uniqueItems=True)
    return {
        "Error": _object({"error": _TEXT}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": _TEXT, "ready": {"type": "boolean"}}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}, closed=False),
        "Stats": free,
        "Document": free,
        "Tasks": _object({"tasks": _list(_object(served, closed=False))}),
        "Model": _object({**model, "inputs": _list(tensor), "outputs": _list(tensor)}),
        "Predict": _object({"tasks": tasks, "inputs": texts}, {"timeout_ms": timeout}),
        "Predicted": _object({"answers": {"type": "object", "additionalProperties": answer}}),
        "Infer": _object({"inputs": _list(_object(given, {"parameters": free}), minItems=1, maxItems=1)}, infer),
        "Inferred": _object(inferred, {"id": _TEXT}),
    }
