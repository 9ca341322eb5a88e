"""The tables, which are the same on SQLite and PostgreSQL. `SCHEMA` rises with every change of them.

Schema 2 added `identity` and `log`, schema 3 `decisions`, schema 4 `precisions`; `registry.upgrade` brings former
tables forward.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Double, Index, Integer, MetaData, String, Table, UniqueConstraint

SCHEMA = 4
LOGGED = 2  # schema from which on there is a log

metadata = MetaData()


def plain_json(value: Any) -> str:
    """Returns a value of a JSON column as text; raises ValueError for what is no JSON."""
    return json.dumps(value, allow_nan=False)


_JSON = JSON(none_as_null=True)

schema = Table(
    "schema",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("store_id", String),  # id of the one store that holds this registry's artefacts
)
identity = Table(
    "identity",
    metadata,
    Column("registry_id", String, primary_key=True),  # random id made with the registry, which a copy shares
    Column("created_at", Double, nullable=False),
)
backbones = Table(
    "backbones",
    metadata,
    Column("weights_id", String, primary_key=True),
    Column("preprocessing_id", String, nullable=False),
    Column("first_seen", Double, nullable=False),
)
versions = Table(
    "versions",
    metadata,
    Column("task", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content_id", String, nullable=False, index=True),
    Column("weights_id", String, nullable=False),
    Column("path", String, nullable=False),
    Column("parent", Integer),
    Column("created_at", Double, nullable=False),
    Column("metrics", _JSON, nullable=False),
    Column("lineage", _JSON, nullable=False),
    Column("state", String, nullable=False),
    UniqueConstraint("task", "content_id"),
)
live = Table(
    "live",
    metadata,
    Column("task", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("content_id", String, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("previous", Integer),
)
promotions = Table(
    "promotions",
    metadata,
    Column("task", String, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("from_version", Integer),
    Column("to_version", Integer, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("gate", _JSON),
    Column("at", Double, nullable=False),
)
log = Table(  # the promotions of all tasks in the order of their commits
    "log",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, ... without gaps
    Column("entry", String, nullable=False),  # random id: two histories of one length differ in it
    Column("task", String, nullable=False),
    Column("generation", Integer, nullable=False),
    UniqueConstraint("task", "generation"),
)
runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("task", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("fence", BigInteger),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("outcome", String),
    Column("detail", _JSON, nullable=False),
    Index("runs_by_task", "task", "started_at"),
)
leases = Table(
    "leases",
    metadata,
    Column("task", String, primary_key=True),
    Column("owner", String),  # null: released; the row stays because of its token
    Column("token", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
)
measurements = Table(
    "measurements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("value", Double),
    Column("quality", String, nullable=False),
    Column("detail", _JSON, nullable=False),
    Column("at", Double, nullable=False),
    Index("measurements_by_version", "task", "version"),
)
decisions = Table(  # choices of people among the points of a search
    "decisions",
    metadata,
    Column("task", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("search", String, nullable=False),  # digest of what the search compared
    Column("choice", String, nullable=False),
    Column("settings", _JSON, nullable=False),
    Column("facts", _JSON, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", Double, nullable=False),
    UniqueConstraint("task", "search"),
)
precisions = Table(  # choices of the precision of a trunk; the last one of each counts
    "precisions",
    metadata,
    Column("weights_id", String, primary_key=True),  # identity of the float32 weights
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("precision", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("figures", _JSON, nullable=False),
    Column("at", Double, nullable=False),
)
