"""The OpenAPI 3.1 document of a port, built from its endpoints.

Schemas of answers are derived from their dataclasses. Schemas of requests come from the protocols, since the limits of
the server are part of them.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from backbone.errors import InputError
from backbone.records import hints, key_of, tag_of
from backbone.variants.registered import Registered
from serving.server.endpoint import Content, Endpoint, Error, Schema
from serving.server.limits import Limits

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
FREE: Schema = {"type": "object"}
TIMEOUT_MS: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "description": "milliseconds until the answer is worth nothing",
}

SCALARS: dict[Any, Schema] = {
    str: TEXT,
    float: NUMBER,
    int: WHOLE,
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
REFUSALS = {
    400: "malformed, or beyond a limit",
    401: "a bearer token is needed",
    404: "no such task or version",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is packed, or has binary tensors behind its JSON",
    429: "overloaded; see Retry-After",
    500: "the graft produced a value that is not a number, or a defect of the server",
    503: "starting or shutting down, the graft does not load, or the registry that knows the version does not answer",
    504: "the deadline passed",
}
NAMES = {"task": "name of a task", "version": "version of the task, as the registry numbers it"}  # names in paths


class NoSchema(InputError):
    """A type that no JSON schema is known for."""


def document(endpoints: Iterable[Endpoint], limits: Limits, tokens: bool) -> dict[str, Any]:
    """Returns the document of these endpoints; `tokens`: the server asks for a bearer token.

    Raises InputError if two different schemas have the same name, or if a type of a reply has none.
    """
    schemas: dict[str, Schema] = {}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = paths.setdefault(endpoint.path, {})
        if names := re.findall(r"{(\w+)}", endpoint.path):
            path["parameters"] = [_parameter(name) for name in names]
        path[endpoint.method.lower()] = _operation(endpoint, limits, tokens, schemas)
    security = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}} if tokens else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Topgraft", "version": "1", "description": "Open Inference Protocol v2, and /predict."},
        "paths": paths,
        "components": {"schemas": schemas, **security},
        **({"security": [{"bearer": []}]} if tokens else {}),
    }


def _parameter(name: str) -> dict[str, Any]:
    schema = TEXT | {"minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": NAMES.get(name, name), "schema": schema}


def _operation(endpoint: Endpoint, limits: Limits, tokens: bool, schemas: dict[str, Schema]) -> dict[str, Any]:
    replies = dict(endpoint.replies) | ({401: Error} if tokens and not endpoint.open else {})
    operation: dict[str, Any] = {"responses": {}}
    for status, reply in sorted(replies.items()):
        if isinstance(reply, Content):
            content = {reply.media: {"schema": reply.schema}}
            description = reply.description
        else:
            content = _named(reply.__name__, schema_of(reply), schemas)
            description = REFUSALS[status] if reply is Error else (reply.__doc__ or "").partition("\n")[0]
        operation["responses"][str(status)] = {"description": description, "content": content}
    if endpoint.body is not None:
        content = _named(endpoint.body.name, endpoint.body.schema(limits), schemas)
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _named(name: str, schema: Schema, schemas: dict[str, Schema]) -> dict[str, Any]:
    """Adds a schema to those of the document, and returns the content that refers to it."""
    if schemas.setdefault(name, schema) != schema:
        raise InputError(f"{name}: two endpoints name different JSON so; rename the dataclass, or the body, of one")
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def schema_of(kind: Any) -> Schema:
    """Returns the JSON schema of a dataclass, or of the type of a field; raises NoSchema for other types."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind in SCALARS:
        return SCALARS[kind]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (tuple, list):
        return array(schema_of(arguments[0]))
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (Union, types.UnionType):
        return _either([schema_of(one) for one in arguments])
    if isinstance(kind, type) and issubclass(kind, Registered):
        return FREE
    if dataclasses.is_dataclass(kind):
        return FREE if tag_of(typing.cast(type, kind)) else _fields(typing.cast(type, kind))
    name = kind.__name__ if isinstance(kind, type) else kind
    raise NoSchema(
        f"no JSON schema is known for the type {name}; use str, float, int, bool, None, Literal, tuple, list, dict or "
        f"Any, or a dataclass of them"
    )


def _either(schemas: list[Schema]) -> Schema:
    different = [schema for number, schema in enumerate(schemas) if schema not in schemas[:number]]
    if len(different) == 1:
        return different[0]
    if all(schema.keys() == {"type"} for schema in different):
        return {"type": [schema["type"] for schema in different]}
    return {"anyOf": different}


def _fields(cls: type) -> Schema:
    required: dict[str, Schema] = {}
    optional: dict[str, Schema] = {}
    for field in dataclasses.fields(cls):
        description = {k: v for k, v in field.metadata.items() if k == "description"}
        kind = hints(cls)[field.name]
        try:
            if field.metadata.get("optional"):
                present = [schema_of(one) for one in get_args(kind) if one is not type(None)]
                optional[key_of(field)] = _either(present) | description
            else:
                required[key_of(field)] = schema_of(kind) | description
        except NoSchema as error:
            raise NoSchema(f"{cls.__name__}.{field.name}: {error}") from None
    return record(required, optional)


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Returns the schema of an object with these fields and no others."""
    properties = required | (optional or {})
    return {"type": "object", "required": sorted(required), "properties": properties, "additionalProperties": False}


def array(items: Schema, **limits: Any) -> Schema:
    """Returns the schema of a list; `limits` are minItems, maxItems, uniqueItems."""
    return {"type": "array", "items": items, **limits}


def nullable(schema: Schema) -> Schema:
    """Returns the schema of an optional field that may also be null, as clients with typed models send it."""
    return {"anyOf": [schema, {"type": "null"}]}


def texts(limits: Limits) -> Schema:
    """Returns the schema of the texts of a request."""
    return array(TEXT | {"maxLength": limits.characters}, minItems=1, maxItems=limits.inputs)
