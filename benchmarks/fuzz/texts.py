"""Readers of registries, rows, configs and requests."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

from adapters.heads.columns import OneLabel, SeveralLabels, Tags
from backbone.records import decode, encode
from backbone.variants.registered import load_folder, variants
from benchmarks.fuzz.mutations import (
    edit_sqlite,
    edited_bytes,
    edited_json,
    edited_json_file,
    edited_lines,
    nasty,
    spelt,
)
from benchmarks.fuzz.reader import Reader
from registry import transfer
from registry.audit import audit
from registry.database import Registry, open_registry
from registry.store import Store
from serving.server.limits import Limits
from serving.server.protocols import open_inference, predict
from serving.server.reading import Question
from tests.grafts import make
from tests.tiny import make_tiny_backbone
from tests.trainers.data.format_writers import IMAGES, TAGGED, TEXTS
from trainers.config import Data, TrainConfig
from trainers.config.load import override
from trainers.data.formats.format import Format
from trainers.data.rows import read_rows
from trainers.retrain.history import known

TOLD = {"actor": "fuzz", "reason": "fuzz", "verdict": "MANUAL"}


def filled(folder: Path) -> str:
    """Makes a registry with two tasks, runs, leases and measurements; returns its URL."""
    from backbone.storage import load_backbone

    url, store = f"sqlite:///{folder / 'registry.db'}", Store(folder / "store")
    backbone = load_backbone(make_tiny_backbone(folder / "trunk"))
    with contextlib.closing(open_registry(url)) as registry:
        for number in range(4):
            make(folder / f"graft{number}", backbone, seed=number)
            task = ("alpha", "beta")[number % 2]
            version = registry.publish(task, folder / f"graft{number}", store, lineage={"action": "head"})
            live = registry.live(task)
            registry.promote(task, version.number, expected_generation=live.generation if live else 0, **TOLD)
            registry.measure(task, version.number, "CPU seconds", 1.5, "measured_counter")
        lease = registry.acquire("alpha", "fuzz", 30)
        registry.start_run("alpha", "run1", "fuzz", lease.token, {"key": "k"})
        registry.finish_run("alpha", "run1", "promoted", {"version": 2}, lease.token)
        registry.release(lease)
    return url


def looked_through(registry: Registry, store: Store) -> None:
    """Calls what verbs and servers call of a registry."""
    registry.change(), registry.lives(), registry.entries(0, 100), registry.store_id()
    for task in registry.tasks():
        known(registry, task)
        registry.promotions(task), registry.runs(task)
        for version in registry.versions(task):
            registry.measurements(task, version.number)
            encode(registry.version(task, version.number))
    audit(registry, store)


class RegistryFile(Reader):
    """The SQLite file of a registry."""

    def begin(self) -> None:
        filled(self.folder)
        with contextlib.closing(sqlite3.connect(self.folder / "registry.db")) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        (self.real / "registry.db").write_bytes((self.folder / "registry.db").read_bytes())

    def forge(self, draw: random.Random) -> None:
        for file in self.place.glob("registry.db-*"):
            file.unlink()
        self.put("registry.db", (self.real / "registry.db").read_bytes())
        edit_sqlite(draw, self.place / "registry.db")

    def read(self) -> None:
        url = f"sqlite:///{self.place / 'registry.db'}"
        with contextlib.closing(open_registry(url, create=False)) as registry:
            looked_through(registry, Store(self.folder / "store"))


class RegistryText(Reader):
    """The export of a registry, as lines of JSON."""

    def begin(self) -> None:
        url = filled(self.folder)
        with contextlib.closing(open_registry(url)) as registry:
            transfer.export(registry, self.real / "registry.jsonl")

    def forge(self, draw: random.Random) -> None:
        self.edit(draw, "registry.jsonl", edited_lines)

    def read(self) -> None:
        rows = transfer.read(self.place / "registry.jsonl")
        file = self.place / "copy.db"
        for old in self.place.glob("copy.db*"):
            old.unlink()
        with contextlib.closing(open_registry(f"sqlite:///{file}")) as registry:
            transfer.bring_in(registry, rows)
            looked_through(registry, Store(self.folder / "store"))


FORMATS = variants(Format)
MODULES = {module.__name__.rsplit(".", 1)[-1]: module for module in load_folder("tests.trainers.data.format_writers")}
EDITS = {"json": edited_json_file, "json_lists": edited_json_file, "jsonl": edited_lines}


def rows_of(tag: str) -> type[Reader]:
    """Returns the reader of rows in a format."""

    class Rows(Reader):
        """Files of rows; the fields that are read come with them."""

        def begin(self) -> None:
            chosen = FORMATS[tag]
            table = IMAGES if chosen.of_images else TAGGED if chosen.labels_per == "word" else TEXTS
            self.fields: dict[str, Any] = MODULES[tag].write(self.real, table)

        def forge(self, draw: random.Random) -> None:
            self.edit(draw, draw.choice(self.files()), EDITS.get(tag, edited_bytes))
            columns = (SeveralLabels(), OneLabel(), OneLabel())
            self.column = Tags() if FORMATS[tag].labels_per == "word" else draw.choice(columns)

        def read(self) -> None:
            train = self.fields["train"]
            names = (train,) if isinstance(train, str) else train
            moved = tuple(name.replace(str(self.real), str(self.place)) for name in names)
            for row in read_rows(Data(**self.fields | {"train": moved}), "train", self.column):
                assert isinstance(row.text, str)
                assert all(isinstance(label, str) for label in row.labels)
                for text in (row.text, *row.labels, row.where):
                    text.encode()  # what is no Unicode would end a tokenizer, or a report

    Rows.__name__ = f"Rows_{tag}"
    return Rows


class ConfigValues(Reader):
    """A resolved config as JSON, as manifests and checkpoints hold it, and overrides from the command line."""

    def begin(self) -> None:
        self.values = encode(TrainConfig(name="t", data=Data(train=("a.csv",))))
        (self.real / "config.json").write_text(json.dumps(self.values))

    def forge(self, draw: random.Random) -> None:
        self.override = draw.randrange(2) == 0
        if self.override:
            path, holder = [], self.values
            while isinstance(holder, dict) and holder:
                path.append(draw.choice(list(holder)))
                holder = holder[path[-1]]
            value = draw.choice((nasty(draw), edited_json(draw, holder)))
            self.text = f"{'.'.join(path)}={value if isinstance(value, str) else json.dumps(value)}"
        else:
            self.edited = edited_json(draw, self.values)

    def read(self) -> None:
        if self.override:
            config = override(TrainConfig(name="t", data=Data(train=("a.csv",))), [self.text])
        else:
            config = decode(TrainConfig, self.edited)
        assert decode(TrainConfig, encode(config)) == config, "another config comes back"


class Requests(Reader):
    """The body of a request."""

    LIMITS = Limits()

    def begin(self) -> None:
        tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one", "two"]}
        infer = {"id": "7", "parameters": {"timeout_ms": 500}, "inputs": [tensor], "outputs": [{"name": "labels"}]}
        ask = {"tasks": ["a", "b"], "inputs": ["one", "two"], "timeout_ms": 500}
        self.bodies = [(open_inference.read, infer), (predict.read, ask)]
        (self.real / "body").write_text(json.dumps(ask))

    def forge(self, draw: random.Random) -> None:
        self.reader, body = draw.choice(self.bodies)
        if draw.randrange(5) == 0:
            self.body = edited_bytes(draw, json.dumps(body).encode())
        else:
            self.body = spelt(draw, edited_json(draw, body))

    def read(self) -> None:
        question: Question = self.reader(self.body, {"task": "a"}, self.LIMITS)
        assert 0 < question.seconds <= self.LIMITS.seconds
        assert 0 < len(question.texts) <= self.LIMITS.inputs
        for text in (*question.texts, *question.tasks, question.id or ""):
            text.encode()
            assert len(text) <= self.LIMITS.body_bytes


READERS: dict[str, type[Reader]] = {
    "registry file": RegistryFile,
    "registry export": RegistryText,
    **{f"rows {tag}": rows_of(tag) for tag in FORMATS if FORMATS[tag].entry == "file"},
    "config": ConfigValues,
    "request": Requests,
}
