"""Reads a file of budgets, and refuses what contradicts itself, with file, line and remedy. Imports no jax.

[default]
max_memory_mb = 900

[line.cards]
groups = ["support"]
owner = "cards"

[group.support]
tasks = ["banking77", "support_*"]
max_latency_ms = 20

[task.banking77]
floors.accuracy = 0.9
single_stream.max_p99_ms = 60

[[exception]]
task = "banking77"
limit = "max_latency_ms"
value = 30
owner = "A. Person"
reason = "until the new machines are there"
until = 2027-01-31
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, NoReturn, get_args

from backbone.errors import InputError, nearest, shown
from backbone.texts import read_text
from registry.budgets.budget import (
    BudgetLimit,
    Budgets,
    Exemption,
    JoulesQuality,
    Level,
    LevelKind,
    Platform,
)
from registry.budgets.limits import LIMITS, narrower, require_limit, unit_of
from registry.budgets.lines import Path as KeyPath
from registry.budgets.lines import parse_toml
from registry.budgets.signers import Signer, Signers

KINDS: tuple[LevelKind, ...] = ("line", "group", "task")
MEMBERS = {"line": "groups", "group": "tasks"}
OF_LEVEL = ("owner", "joules_quality", "platform")
OF_KEY = ("file", "owner", "until", "revoked")
OF_EXCEPTION = ("task", "limit", "value", "owner", "reason", "until")
REMEDY = "narrow it, or write an [[exception]] with owner, reason and until"


def read_budgets(file: Path) -> Budgets:
    """Reads a file of budgets; raises InputError for a missing one, and for whatever contradicts itself."""
    try:
        text = read_text(file)
    except InputError as error:
        raise InputError(f"{file}: no readable file of budgets: {error}; mend it, or name another") from error
    values, lines = parse_toml(text, str(file))
    reader = _Reader(file, lines)
    levels = tuple(reader.levels(values))
    reader.check_members(levels)
    budgets = Budgets(str(file), levels, ())
    for level in levels:
        reader.check_inheritance(budgets, level)
    exemptions = tuple(reader.exemptions(values.get("exception", []), budgets))
    return Budgets(str(file), levels, exemptions, reader.signers(values.get("signatures")))


@dataclass(frozen=True)
class _Reader:
    """A file and the lines of its keys."""

    file: Path
    lines: Mapping[KeyPath, int]

    def at(self, *path: str | int) -> str:
        """Returns file and line of a key, or of the nearest table above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines.get(path, 1)}"

    def fail(self, path: KeyPath, problem: str) -> NoReturn:
        raise InputError(f"{self.at(*path)}: {problem}")

    def levels(self, values: Mapping[str, Any]) -> Iterator[Level]:
        """Yields every level of the file."""
        for kind, tables in values.items():
            if kind in ("exception", "signatures"):
                continue
            if kind != "default" and kind not in KINDS:
                known = ["default", *KINDS, "exception", "signatures"]
                self.fail((kind,), f"{kind}: no such table; {nearest(kind, known)}")
            if not isinstance(tables, dict):
                self.fail((kind,), f"{kind}: expected a table, got {shown(tables)}; write [{kind}] above its limits")
            if kind == "default":
                yield self.level("default", "", tables, ("default",))
                continue
            for name, table in tables.items():
                if not isinstance(table, dict):
                    self.fail((kind, name), f"{kind}.{name}: expected a table; write [{kind}.NAME] above the limits")
                yield self.level(kind, name, table, (kind, name))

    def level(self, kind: Any, name: str, table: Mapping[str, Any], path: KeyPath) -> Level:
        """Returns one level; raises InputError for a key that it may not have, or a value of another type."""
        limits: list[BudgetLimit] = []
        settings: Any = {}
        members = MEMBERS.get(kind, "")
        for key, value in table.items():
            if key in OF_LEVEL:
                settings[key] = self.word(key, value, (*path, key))
            elif key == members:
                settings["members"] = self.words(value, (*path, key))
            elif isinstance(value, dict):
                limits += [self.limit(f"{key}.{inner}", one, (*path, key, inner)) for inner, one in value.items()]
            else:
                limits.append(self.limit(key, value, (*path, key), also=[*OF_LEVEL, *filter(None, [members])]))
        if members and not settings.get("members"):
            self.fail(path, f"{kind}.{name}: {members} is missing; name the {members} that it is made of")
        return Level(kind, name, self.at(*path), tuple(limits), **settings)

    def limit(self, name: str, value: Any, path: KeyPath, also: list[str] | None = None) -> BudgetLimit:
        """Returns a limit; raises InputError for an unknown one, and for what is no positive number."""
        if name not in LIMITS and also and "." not in name:
            self.fail(path, f"{name}: no such limit or key; {nearest(name, [*LIMITS, *also, 'floors.accuracy'])}")
        try:
            require_limit(name)
        except InputError as error:
            self.fail(path, str(error))
        return BudgetLimit(name, self.number(name, value, path), self.at(*path))

    def number(self, name: str, value: Any, path: KeyPath) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            number = float(value) if is_number else math.nan
        except OverflowError:  # a whole number beyond every float
            number = math.inf
        if not math.isfinite(number) or number <= 0:
            self.fail(path, f"{name}: expected a number above 0, got {shown(value)}; leave the key out for no limit")
        return number

    def word(self, key: str, value: Any, path: KeyPath) -> str:
        choices = {"joules_quality": JoulesQuality, "platform": Platform}
        if not isinstance(value, str) or not value.strip():
            self.fail(path, f"{key}: expected words, got {shown(value)}")
        if key in choices and value not in (known := [one for one in get_args(choices[key]) if one]):
            self.fail(path, f"{key}: expected one of {', '.join(known)}, got {shown(value)}")
        return value

    def day(self, value: Any, path: KeyPath) -> date:
        if not isinstance(value, date) or isinstance(value, datetime):
            self.fail((*path, "until"), f"until: expected a day such as 2027-01-31, without quotes, got {shown(value)}")
        return value

    def words(self, value: Any, path: KeyPath) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            self.fail(path, f"{path[-1]}: expected a list of names, got {shown(value)}")
        return tuple(value)

    def check_members(self, levels: tuple[Level, ...]) -> None:
        """Raises InputError for a line that names no group of the file, and for a group in two lines."""
        groups = {one.name for one in levels if one.kind == "group"}
        lines: dict[str, Level] = {}
        for level in levels:
            for name in level.members if level.kind == "line" else ():
                path = ("line", level.name, "groups")
                if name not in groups:
                    self.fail(path, f"groups: there is no [group.{name}]; {nearest(name, groups)}")
                if name in lines:
                    self.fail(path, f"groups: {name} lies in {lines[name]} ({lines[name].source}) too; keep one")
                lines[name] = level

    def check_inheritance(self, budgets: Budgets, level: Level) -> None:
        """Raises InputError for a level that is wider than what it inherits, or needs what nobody states."""
        for above in self.above(budgets, level):
            bounds = {limit.name: limit for limit in above.limits}
            for limit in level.limits:
                bound = bounds.get(limit.name)
                if bound is not None and narrower(limit.name, bound.value or 0.0, limit.value or 0.0):
                    raise InputError(
                        f"{limit.source}: {level}: {limit.name} {limit.value:g} is wider than {bound.value:g} of "
                        f"{above} ({bound.source}); {REMEDY}"
                    )
            for key in ("joules_quality", "platform"):
                mine, theirs = getattr(level, key), getattr(above, key)
                if mine and theirs and mine != theirs:
                    self.fail(
                        (level.kind, level.name, key),
                        f"{level}: {key} {mine!r} contradicts {theirs!r} of {above} ({above.source}); keep one of them",
                    )
        chain = (level, *self.above(budgets, level))
        joules = [limit for limit in level.limits if unit_of(limit.name) == "J"]
        if joules and not any(one.joules_quality for one in chain):
            raise InputError(
                f"{joules[0].source}: {joules[0].name}: figures of two qualities are never compared; state "
                'joules_quality = "measured_counter" or "modelled" beside it'
            )

    def above(self, budgets: Budgets, level: Level) -> tuple[Level, ...]:
        """Returns the levels from which one inherits, the nearest first."""
        if level.kind == "task":
            return tuple(one for one in budgets.chain(level.name) if one.kind != "task")
        order: tuple[LevelKind, ...] = ("default", "line", "group", "task")
        return tuple(
            one
            for one in budgets.levels
            if (one.kind == "default" and order.index(level.kind) > 0)
            or (one.kind == "line" and level.kind == "group" and level.name in one.members)
        )

    def exemptions(self, tables: Any, budgets: Budgets) -> Iterator[Exemption]:
        """Yields the exceptions; raises InputError for one that lacks something, or is about no limit of its task."""
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.fail(("exception",), "exception: expected entries; write [[exception]] with two brackets")
        seen: dict[tuple[str, str], Exemption] = {}
        for number, table in enumerate(tables):
            path: KeyPath = ("exception", number)
            for key in table:
                if key not in OF_EXCEPTION:
                    self.fail((*path, key), f"{key}: no such key of an exception; {nearest(key, OF_EXCEPTION)}")
            for key in OF_EXCEPTION:
                if key not in table and key != "value":
                    self.fail(
                        path, f"{key}: missing; an exception has {', '.join(OF_EXCEPTION)} (value may be left out)"
                    )
            one = self.exemption(table, path, budgets)
            if (first := seen.setdefault((one.task, one.limit), one)) is not one:
                self.fail(path, f"exception: {first.source} is about {one.limit} of {one.task} too; keep one of them")
            yield one

    def signers(self, table: Any) -> Signers:
        """Returns the keys that must have signed; raises InputError for fewer keys than are asked for."""
        path: KeyPath = ("signatures",)
        if table is None:
            return Signers()
        entries = table.get("key", []) if isinstance(table, dict) else None
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            self.fail(
                (*path, "key"),
                "signatures: expected [signatures] with required, and an entry [[signatures.key]] for each key",
            )
        for key in table:
            if key not in ("required", "key"):
                self.fail((*path, key), f"{key}: no such key of [signatures]; {nearest(key, ('required', 'key'))}")
        required = table.get("required", 1)
        keys = tuple(self.signer(one, (*path, "key", i)) for i, one in enumerate(entries))
        if type(required) is not int or not 1 <= required <= len(keys):
            expected = f"expected 1 to the number of keys, {len(keys)}, got {shown(required)}"
            self.fail((*path, "required"), f"required: {expected}")
        signers = Signers(required, keys, self.at(*path))
        signers.require_different()
        return signers

    def signer(self, table: Mapping[str, Any], path: KeyPath) -> Signer:
        """Returns one key, whose file lies beside this one unless its path is absolute."""
        for key in table:
            if key not in OF_KEY:
                self.fail((*path, key), f"{key}: no such key of a signer; {nearest(key, OF_KEY)}")
        for key in ("file", "owner"):
            if key not in table:
                self.fail(path, f"{key}: missing; a signer has {', '.join(OF_KEY)} (until and revoked may be left out)")
        words = {key: self.word(key, table[key], (*path, key)) for key in ("file", "owner", "revoked") if key in table}
        file = self.file.parent / words.pop("file")
        if not file.is_file():
            self.fail((*path, "file"), f"file: there is no {file}; paths go from the file of budgets")
        until = self.day(table["until"], path) if "until" in table else None
        return Signer(str(file), source=self.at(*path), until=until, **words)

    def exemption(self, table: Mapping[str, Any], path: KeyPath, budgets: Budgets) -> Exemption:
        """Returns one exception."""
        task, name, owner, reason = (
            self.word(key, table[key], (*path, key)) for key in ("task", "limit", "owner", "reason")
        )
        until = self.day(table["until"], path)
        limits = {limit.name: limit for level in reversed(budgets.chain(task)) for limit in level.limits}
        if name not in limits:
            if budgets.bounds(name) and not budgets.names(task):
                self.fail((*path, "task"), f"task: no table names {task!r}; {nearest(task, budgets.tasks())}")
            self.fail((*path, "limit"), f"limit: nothing bounds {name!r} of {task}; {nearest(name, limits)}")
        value = None if "value" not in table else self.number("value", table["value"], (*path, "value"))
        bound = limits[name]
        if value is not None and not narrower(name, bound.value or 0.0, value):
            self.fail(
                (*path, "value"),
                f"value: {value:g} is no wider than {bound.value:g} ({bound.source}); lower the limit there instead",
            )
        return Exemption(task, name, value, owner, reason, until, self.at(*path))
