"""From files of rows to the config that trains on them: splits, header, columns, head, metric and lengths.

Settings that a person gave count first, and everything else is an `Assumption` that says how to change it. Where
a file leaves more than one reading, an InputError lists them. Imports no jax.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.heads.head import Head
from backbone.compression import plain_name
from backbone.errors import InputError
from backbone.home import max_tokens_of
from backbone.variants.registered import variant
from trainers.config import Data, TrainConfig
from trainers.config.load import load_config, override_part
from trainers.data.columns import Column, Roles, Stated, described, roles_of, splits_in
from trainers.data.formats.format import known_formats
from trainers.data.headers import NoHeader, without_header
from trainers.data.lengths import chosen_max_tokens, estimate, lengths_of
from trainers.data.rows import Entries, Split, entries

log = logging.getLogger(__name__)

MAX_ROWS = 100_000  # rows of a file that are read
MAX_MEASURED = 5_000  # rows whose length is estimated, evenly spaced
METRICS = {"multi_label": "macro_f1"}  # metric by head.kind where it is not the first of the head's
SPLIT_NAMES: dict[Split, frozenset[str]] = {  # words in the names of files
    "train": frozenset({"train", "training"}),
    "dev": frozenset({"dev", "development", "val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}


@dataclass(frozen=True)
class Assumption:
    """A setting that was inferred, and why."""

    setting: str  # FIELD=VALUE, as --set takes it
    reason: str

    def __str__(self) -> str:
        return f"--set {shlex.quote(self.setting)}"


@dataclass(frozen=True)
class Inferred:
    """A config with what was assumed for it."""

    config: TrainConfig
    columns: tuple[Column, ...] = ()  # columns of the train file; () for a format without, or where none was read
    assumptions: tuple[Assumption, ...] = ()
    doubts: tuple[str, ...] = ()  # what may be wrong about the file as a whole, a sentence each

    def log(self) -> None:
        """Logs the assumptions as options of one call, and the columns that have no role."""
        data = self.config.data
        unused = [c.name for c in self.columns if c.name not in (data.text, data.text_pair, data.label)]
        if self.assumptions:
            log.info("assumed (topgraft check says why): %s", " ".join(map(str, self.assumptions)))
        if unused:
            log.info("columns that are not read: %s", ", ".join(unused))
        for doubt in self.doubts:
            log.warning("%s", doubt)


def is_data(name: str, overrides: Sequence[str] = ()) -> bool:
    """Returns whether an argument names data: by its suffix, its prefix, or `data.format`."""
    suffix = Path(plain_name(Path(name))).suffix.lower()
    if suffix == ".py":
        return False
    known = known_formats().values()
    if any(suffix in cls.suffixes or (cls.prefix and name.startswith(cls.prefix)) for cls in known):
        return True
    path = Path(name.partition("#")[0])
    stated = any(text.startswith("data.format=") for text in overrides)
    return path.exists() if stated else path.is_dir() or (bool(suffix) and path.is_file())


def groups_of(files: Sequence[str], overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the files that are read together: each alone, or as many as the format takes; train files come first.

    Raises InputError for a file that is named twice.
    """
    places = [str(Path(file).resolve()) for file in files]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"{files[number]}: is named twice; name every file once")
    data = override_part(Data(), "data", [text for text in overrides if text.startswith("data.format=")])
    size = len(data.file_format.files or (1,)) if data.file_format is not None else 1
    groups = [tuple(files[i : i + size]) for i in range(0, len(files), size)]
    return sorted(groups, key=lambda group: split_named(group[0]) != "train")


def split_named(file: str) -> Split | None:
    """Returns the split that the name of a file says, or that of its folder; None where neither does."""
    path = Path(file)
    for words in (set(re.findall("[a-z]+", path.name.lower())), {path.parent.name.lower()}):
        named = [split for split, names in SPLIT_NAMES.items() if words & names]
        if len(named) == 1:
            return named[0]
    return None


def infer(files: Sequence[str], overrides: Sequence[str] = ()) -> Inferred:
    """Returns the config that trains on files: one alone, or those of the splits that their names say."""
    groups = groups_of(files, overrides)
    splits: dict[Split, list[str]] = {"train": [], "dev": [], "test": []}
    for group in groups:
        named: Split | None = "train" if group is groups[0] else split_named(group[0])
        if named is None:
            raise InputError(
                f"{group[0]}: its name does not say which split it is (train, dev or test); leave it out, and name it "
                f"with --set data.dev={group[0]} or --set data.test={group[0]}"
            )
        splits[named] += group
    if len(groups) > 1 and split_named(groups[0][0]) in ("dev", "test"):
        raise InputError(f"{', '.join(files)}: by their names none of these files is the train file")
    assumed = [
        Assumption(_files(split, names), "by its name") for split, names in splits.items() if names and split != "train"
    ]
    return inferred(splits["train"], overrides, assumed)


def inferred(files: Sequence[str], overrides: Sequence[str], before: Sequence[Assumption] = ()) -> Inferred:
    """Returns the config for train files; `before` are assumptions that were made already."""
    stated = {text.partition("=")[0].strip(): text.partition("=")[2] for text in overrides}
    first = _files("train", files)
    for setting in (first, *(assumption.setting for assumption in before)):
        if (name := setting.partition("=")[0]) in stated:
            raise InputError(f"--set {name}: a file of this split is named without --set too; name it once")
    of_data = [text for text in overrides if text.startswith("data.")]
    data = override_part(Data(text="", label=""), "data", [first, *of_data])
    group = next(entries(data, "train"))
    if group.format.of_images or data.of_images:
        raise InputError(
            f"{files[0]}: holds images; train them with `topgraft train image_classification --set data.format="
            f"{group.format.tag} --set {shlex.quote(first)}`"
        )
    first_line = group.format.first_line(group.names[0], data.read_settings("train", {}))
    bare = None if data.columns else without_header(data, group, first_line)
    if bare is not None:
        data = replace(data, columns=bare.columns)
    table = _table(data, data.columns or first_line)
    columns, roles = _roles(data, group, table, stated.get("head.kind", ""), bare)
    assumed = [*before, *_assumptions(roles, group.format.has_columns, bare)]
    script = "token_tagging" if roles.kind == "token_tagging" else "text_classification"
    name = re.sub(r"[^\w-]+", "_", Path(plain_name(Path(files[0]))).stem).strip("_") or "graft"
    settings = [first, f"name={name}", *(a.setting for a in assumed)]
    rest = [text for text in overrides if not (text.startswith("head.kind="))]
    config = load_config(script, [*settings, *rest])
    if "data.max_tokens" not in stated:
        tokens = _max_tokens(table, config)
        assumed.append(tokens)
        config = load_config(script, [*settings, tokens.setting, *rest])
    doubts = tuple(
        f"{', '.join(files)}: {name!r} says of which split a row is ({', '.join(values)}), but all rows are trained "
        "on; write those of each split into a file of its own"
        for name, values in splits_in(table, (roles.text, roles.text_pair, roles.label)).items()
    )
    open_assumptions = tuple(a for a in assumed if a.setting.partition("=")[0] not in stated)
    return Inferred(config, columns, open_assumptions, doubts)


def _files(split: str, files: Sequence[str]) -> str:
    """Returns the setting of a split; a list of JSON where a name holds a comma, or looks like such a list."""
    plain = not any("," in file or file.strip() != file or file.startswith("[") for file in files)
    return f"data.{split}={','.join(files) if plain else json.dumps(list(files), ensure_ascii=False)}"


def _roles(
    data: Data, group: Entries, table: Mapping[str, Sequence[Any]], kind: str, bare: NoHeader | None
) -> tuple[tuple[Column, ...], Roles]:
    """Returns the columns with their roles."""
    where = group.names[0]
    if group.format.has_columns:
        columns = described(table)
        stated = Stated(data.text, data.text_pair, data.label, kind)
        return columns, roles_of(table, columns, where, stated, named=bare is None)
    if group.format.labels_per == "word":
        return (), Roles("text", "", "label", "token_tagging", "")
    stated = Stated("text", "", "label", kind)
    return (), roles_of(table, described(table), where, stated)


def _assumptions(roles: Roles, has_columns: bool, bare: NoHeader | None) -> list[Assumption]:
    """Returns the settings of some roles; those of the head come before those that depend on it."""
    assumed = [Assumption(f"head.kind={roles.kind}", "by what the labels are")]
    if bare is not None:
        assumed.append(Assumption(f"data.columns={','.join(bare.columns)}", bare.reason))
    if has_columns:
        assumed.append(Assumption(f"data.text={roles.text}", "the column of the longest and most different texts"))
        if roles.text_pair:
            assumed.append(Assumption(f"data.text_pair={roles.text_pair}", "the second text of a pair, by its name"))
            assumed.append(Assumption("head.pair=cross", "both texts are read as one row"))
        assumed.append(Assumption(f"data.label={roles.label}", "a column of labels, by its values and name"))
    if roles.separator:
        assumed.append(Assumption(f"data.label_separator={roles.separator}", "cells hold several labels"))
    if roles.kind != "token_tagging" and roles.kind != "classification":
        assumed.append(Assumption("head.pooling=mean", "the mean of all tokens"))
    metric = METRICS.get(roles.kind, variant(Head, roles.kind, "head.kind").metrics[0])
    return [*assumed, Assumption(f"metric={metric}", f"the usual one of {roles.kind}")]


def _table(data: Data, order: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """Returns the cells of every column of data.train, None where a record lacks the field; `order` comes first."""
    records = []
    for group in entries(data, "train"):
        read = group.format.records(group.names, data.read_settings("train", {}))
        records += [record for _, record in itertools.islice(read, MAX_ROWS)]
    present = {name for record in records for name in record}
    names = dict.fromkeys(itertools.chain((name for name in order if name in present), *records))
    names.pop("", None)
    if not records:
        raise InputError(f"{', '.join(data.train)}: holds no rows")
    return {name: [record.get(name) for record in records] for name in names}


def _max_tokens(table: Mapping[str, Sequence[Any]], config: TrainConfig) -> Assumption:
    """Returns the value for data.max_tokens that cuts hardly any row, and that the backbone takes."""
    roles = [name for name in (config.data.text, config.data.text_pair) if name]
    cells = zip(*(table[name] for name in roles), strict=True)
    contents = ["\0".join(map(_written, texts)) for texts in cells]
    limit = max_tokens_of(config.backbone)
    p99 = lengths_of([estimate(text) for text in measured(contents)], max_tokens=0).p99
    chosen = chosen_max_tokens(p99, limit)
    reason = f"99 % of the inputs have up to about {p99} tokens"
    if limit is not None and p99 > limit:
        reason += f"; the backbone takes {limit}"
    return Assumption(f"data.max_tokens={chosen}", reason)


def measured(contents: Sequence[str]) -> Sequence[str]:
    """Returns the texts whose lengths are estimated: evenly spaced ones, and the longest."""
    step = -(-len(contents) // MAX_MEASURED)
    return contents if step <= 1 else [*contents[::step], max(contents, key=len)]


def _written(cell: Any) -> str:
    """Returns the text of a cell; the words of a list with spaces between."""
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    return " ".join(map(str, cell)) if isinstance(cell, (list, tuple)) else str(cell)
