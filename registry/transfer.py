"""A registry as text: `export` writes every row as a JSON line, and `import` makes an equal registry of them.

A file is read whole and judged before a database is opened, so a damaged one leaves nothing behind.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Double, Integer, Table, UniqueConstraint, func, select, text

from backbone.errors import InputError, nearest
from backbone.files import write_durable
from backbone.texts import parse_json
from registry import tables, upgrade
from registry.audit import history_problems
from registry.database import STORE, Registry

Row = dict[str, Any]
Rows = dict[str, list[Row]]  # rows by table
_OWN = ("schema", "identity")  # tables that an empty registry has rows in
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class RegistryExport:
    """The result of `registry export`."""

    file: str
    lines: dict[str, int]  # lines of each table


@dataclass(frozen=True)
class RegistryImport:
    """The result of `registry import`."""

    file: str
    registry: str  # URL
    lines: dict[str, int]  # lines of each table


def export(registry: Registry, out: Path) -> dict[str, int]:
    """Writes the rows of all tables, from one instant, as JSON lines; returns the number of lines by table."""
    counts, lines = {}, []
    with registry.database.reading() as connection:
        for table in upgrade.tables_of(registry.database.look(connection)):
            keys = [column.name for column in table.primary_key]
            rows = [dict(row._mapping) for row in connection.execute(select(table))]
            rows.sort(key=lambda row: [row[key] for key in keys])  # the order of texts differs between databases
            counts[table.name] = len(rows)
            lines += [json.dumps({"table": table.name} | row, ensure_ascii=False) for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durable(out, "".join(line + "\n" for line in lines).encode())
    return counts


def read(file: Path) -> Rows:
    """Returns the rows of a file that `export` wrote; raises InputError that names file and line."""
    known = {table.name: table for table in tables.metadata.sorted_tables}
    rows: Rows = {name: [] for name in known}
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{file}, line {number}"
                values = parse_json(line, where)
                if not isinstance(values, dict) or not isinstance(name := values.pop("table", None), str):
                    raise InputError(f"{where}: expected an object with `table`; was it written by `registry export`?")
                if name not in known:
                    raise InputError(f"{where}: table {name!r} is unknown; {nearest(name, list(known))}")
                rows[name].append(_row(known[name], values, where))
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error.reason}); was it written by `registry export`?") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    for table in known.values():
        _require_unique(file, table, rows[table.name])
    _require_whole(file, rows)
    return rows


def _row(table: Table, values: Row, where: str) -> Row:
    if unknown := sorted(values.keys() - {column.name for column in table.columns}):
        raise InputError(f"{where}: {table.name} has no column {unknown[0]!r}; it is of a later version, or damaged")
    for column in table.columns:
        if not _fits(column, value := values.get(column.name)):
            raise InputError(f"{where}: {table.name}.{column.name} is {str(value)[:40]!r}, expected {_kind(column)}")
        values.setdefault(column.name, None)
    return values


def _fits(column: Column[Any], value: Any) -> bool:
    """Returns True if both databases can hold the value in this column."""
    if value is None:
        return bool(column.nullable)
    if isinstance(column.type, JSON):
        return isinstance(value, dict) and _is_text(json.dumps(value, ensure_ascii=False), escaped=True)
    if isinstance(column.type, Integer):
        bits = 63 if isinstance(column.type, BigInteger) else 31
        return type(value) is int and -(1 << bits) <= value < 1 << bits
    if isinstance(column.type, Double):
        return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    return isinstance(value, str) and _is_text(value)


def _is_text(value: str, *, escaped: bool = False) -> bool:
    """Returns True for text that both databases can hold: PostgreSQL has no zero byte."""
    return ("\\u0000" if escaped else "\0") not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _kind(column: Column[Any]) -> str:
    kinds = ((JSON, "an object"), (Integer, "a whole number"), (Double, "a number"))
    kind = next((name for type_, name in kinds if isinstance(column.type, type_)), "text")
    return f"{kind} or null" if column.nullable else kind


def _require_unique(file: Path, table: Table, rows: list[Row]) -> None:
    unique = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    for columns in (table.primary_key.columns, *(constraint.columns for constraint in unique)):
        names, seen = [column.name for column in columns], set()
        for row in rows:
            key = tuple(row[name] for name in names)
            if key in seen:
                raise InputError(f"{file}: {table.name} holds {', '.join(names)} {key} twice; export it again")
            seen.add(key)


def _require_whole(file: Path, rows: Rows) -> None:
    """Raises InputError unless the rows are those of one registry whose log and live versions agree."""
    if len(rows["schema"]) != 1:
        raise InputError(f"{file}: holds {len(rows['schema'])} rows of `schema`, expected one; it is no whole export")
    version = rows["schema"][0]["version"]
    if version not in upgrade.READABLE:
        raise InputError(f"{file}: schema {version}: this version of topgraft reads schema {tables.SCHEMA}")
    ids = [row["registry_id"] for row in rows["identity"]]
    if len(ids) != (version >= tables.LOGGED) or not all(map(_ID.fullmatch, ids)):
        raise InputError(f"{file}: holds the ids {ids}, expected one of 32 hexadecimal digits; export it again")
    problems = []
    by_task: Callable[[str], dict[str, list[Any]]] = lambda name: _by_task(rows[name])  # noqa: E731
    versions, log, live = by_task("versions"), by_task("promotions"), by_task("live")
    for task in sorted({*versions, *log, *live}):
        known = {row.number: row for row in versions.get(task, [])}
        entries = sorted(log.get(task, []), key=lambda row: row.generation)
        problems += history_problems(task, entries, (live.get(task) or [None])[0], known)
    positions = sorted(row["position"] for row in rows["log"])
    if version >= tables.LOGGED and positions != list(range(1, len(rows["promotions"]) + 1)):
        problems.append("the log does not have one entry for each promotion")
    if problems:
        raise InputError(f"{file}: {len(problems)} problems, the first: {problems[0]}; export it again")


def _by_task(rows: list[Row]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row["task"], []).append(SimpleNamespace(**row))
    return grouped


def bring_in(registry: Registry, rows: Rows) -> dict[str, int]:
    """Writes the rows into an empty registry, in one transaction; raises InputError for any other."""
    database = registry.database
    with database.writing("schema", STORE) as connection:
        for table in tables.metadata.sorted_tables:
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count and table.name not in _OWN:
                raise InputError(
                    f"{database.where}: holds {count} rows of `{table.name}`; a registry is imported into an empty one"
                )
        for table in tables.metadata.sorted_tables:
            if table.name in _OWN:
                connection.execute(table.delete())
            if rows[table.name]:
                connection.execute(table.insert(), rows[table.name])
        if (before := rows["schema"][0]["version"]) != tables.SCHEMA:
            upgrade.complete(connection, database.time(connection), before)
        if rows["measurements"] and database.engine.dialect.name == "postgresql":
            name = f"{database.namespace}.measurements" if database.namespace else "measurements"
            last = max(row["id"] for row in rows["measurements"])
            connection.execute(
                text("select setval(pg_get_serial_sequence(:name, 'id'), :last)"), {"name": name, "last": last}
            )
    return {name: len(values) for name, values in rows.items()}
