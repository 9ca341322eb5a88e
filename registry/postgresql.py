"""A registry on PostgreSQL, directly or behind a pooler that gives each transaction another connection."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL

from backbone.errors import InputError
from registry.sqlite import PATIENCE
from registry.tables import plain_json

_SEARCH_PATH = re.compile(r"\s*-c\s*search_path=([A-Za-z_][A-Za-z0-9_]*)(?:,\S*)?")


def engine(where: URL) -> tuple[Engine, str | None]:
    """Returns an engine, and the schema of the tables where the URL names one.

    `options=-csearch_path=NAME` is read here and not sent. Behind a pooler it would be refused, or ignored.
    """
    options = where.query.get("options", "")
    namespace = None
    if isinstance(options, str) and (match := _SEARCH_PATH.search(options)):
        namespace = match[1].lower()
        rest = (options[: match.start()] + options[match.end() :]).strip()
        where = where.difference_update_query(["options"]).update_query_dict({"options": rest} if rest else {})
    try:
        made = create_engine(
            where,
            isolation_level="READ COMMITTED",
            json_serializer=plain_json,
            pool_pre_ping=True,
            execution_options={"schema_translate_map": {None: namespace}},
            connect_args={
                "connect_timeout": 10,
                "keepalives_idle": 10,
                "application_name": "topgraft",
                "prepare_threshold": None,  # a prepared statement belongs to a session
            },
        )
    except ModuleNotFoundError as error:
        raise InputError(f"registry: PostgreSQL needs psycopg: pip install 'topgraft[postgres]' ({error})") from None
    return made, namespace


def begin(connection: Connection) -> None:
    """Sets the limits of a transaction that writes; they end with it."""
    limits = (("idle_in_transaction_session_timeout", PATIENCE), ("lock_timeout", 2 * PATIENCE))
    calls = ", ".join(f"set_config('{name}', '{seconds}s', true)" for name, seconds in limits)
    connection.execute(text(f"select {calls}"))


def lock(connection: Connection, names: Sequence[str]) -> None:
    """Takes advisory locks of the transaction."""
    for name in names:
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:name, 7))"), {"name": name})


def place(connection: Connection, namespace: str | None) -> str:
    """Returns server, database and schema. A physical replica has those of its origin, and a restored dump has not."""
    row = connection.execute(
        text("select system_identifier, current_database(), current_schema() from pg_control_system()")
    ).one()
    return f"postgresql:{row[0]}/{row[1]}/{namespace or row[2]}"
