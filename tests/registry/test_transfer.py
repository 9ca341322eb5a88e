"""A registry as text and back, between both databases; damaged and forged files leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbone.errors import InputError
from registry.audit import audit
from registry.database import Registry, open_registry
from registry.decisions import decide
from registry.precisions import choose
from registry.store import Store
from registry.transfer import bring_in, export, read
from tests.registry.actors import ROOT
from tests.registry.postgres import empty_database
from tests.registry.support import TOLD


@pytest.fixture
def lived(published: Registry) -> Registry:
    """A registry with something in every table."""
    published.promote("task", 1, expected_generation=0, gate={"accuracy": 0.1 + 0.2, "text": "é"}, **TOLD)
    published.promote("task", 3, expected_generation=1, **TOLD)
    published.rollback("task", actor="tests", reason="bad")
    lease = published.acquire("task", "me", 600.0)
    published.start_run("task", "r1", "me", fence=lease.token, detail={"config": "a"})
    published.finish_run("task", "r1", "promoted", fence=lease.token)
    decide(
        published,
        "task",
        search="sha256:1",
        choice="a",
        settings={"seed": 1},
        facts={"score": 0.5},
        actor="me",
        reason="ü",
    )
    published.measure("task", 1, "joules", None, "unavailable", {"reason": "no meter"})
    choose(published, "sha256:trunk", "int8", actor="me", reason="ü")
    return published


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of the same kind or of the other one."""
    return empty_database(request, tmp_path / "target.db")


@pytest.fixture
def empty(target: str) -> Iterator[Registry]:
    with contextlib.closing(open_registry(target)) as opened:
        yield opened


def test_an_import_is_what_was_exported(lived, store, grafts, empty, tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    counts = export(lived, first)
    assert min(counts.values()) > 0, "every table is tried"
    assert bring_in(empty, read(first)) == counts
    assert export(empty, second) == counts
    assert second.read_bytes() == first.read_bytes()
    assert empty.change() == lived.change(), "a follower goes on with the copy"
    assert audit(empty, store).promotions == 3
    empty.measure("task", 1, "joules", 2.0, "measured_counter")
    assert empty.publish("task", grafts[4], store).number == 5
    with pytest.raises(InputError, match="holds 1 rows of `backbones`; a registry is imported into an empty one"):
        bring_in(empty, read(first))


def lines_of(registry: Registry, file: Path) -> list[dict]:
    export(registry, file)
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, grafts) -> list[dict]:
    """The lines of an export with two promotions."""
    folder = tmp_path_factory.mktemp("exported")
    with contextlib.closing(open_registry(f"sqlite:///{folder}/registry.db")) as registry:
        for graft in grafts[:2]:
            registry.publish("task", graft, Store(folder / "store"))
        for generation in (0, 1):
            registry.promote("task", generation + 1, expected_generation=generation, **TOLD)
        return lines_of(registry, folder / "out.jsonl")


def changed(of: str, **values: object):
    def change(lines: list[dict]) -> None:
        next(line for line in lines if line["table"] == of).update(values)

    return change


def without(table: str):
    return lambda lines: lines.remove(next(line for line in lines if line["table"] == table))


def twice(table: str):
    return lambda lines: lines.append(next(line for line in lines if line["table"] == table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("versions", number="1"), r"line \d+: versions.number is '1', expected a whole number"),
        (changed("versions", number=True), "expected a whole number"),
        (changed("versions", number=1 << 31), "expected a whole number"),
        (changed("versions", task="a\0b"), "expected text"),
        (changed("versions", metrics=[1]), "expected an object"),
        (changed("versions", metrics={"a": "\0"}), "expected an object"),
        (changed("versions", created_at="now"), "expected a number"),
        (changed("versions", colour="red"), "versions has no column 'colour'"),
        (changed("versions", path=None), "versions.path is 'None', expected text"),
        (changed("versions", table="version"), "table 'version' is unknown; nearest: versions"),
        (changed("identity", registry_id="../../etc"), "expected one of 32 hexadecimal digits"),
        (changed("schema", version=9), "schema 9: this version of topgraft reads schema 4"),
        (changed("live", version=1), "problems, the first: task: live"),
        (changed("log", position=7), "one entry for each promotion"),
        (without("schema"), "0 rows of `schema`"),
        (without("identity"), "holds the ids"),
        (without("log"), "one entry for each promotion"),
        (without("promotions"), "problems"),
        (twice("schema"), "twice"),
        (twice("versions"), "versions holds task, number .* twice"),
        (twice("log"), "twice"),
    ],
)
def test_a_damaged_export_is_refused(exported, tmp_path, change, message):
    lines = json.loads(json.dumps(exported))
    change(lines)
    (tmp_path / "damaged.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path / "damaged.jsonl")
    assert "damaged.jsonl" in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]\n", b"{}\n", b"\xff\n", b'{"table": 1}\n', b"[" * 100_000, b'{"table": "live", "task": NaN}\n'],
)
def test_what_is_no_export_is_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="file"):
        read(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nothing")


def test_links_pipes_and_devices_stay_what_they_are(lived, tmp_path):
    counts = export(lived, tmp_path / "plain.jsonl")
    plain = (tmp_path / "plain.jsonl").read_bytes()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "target.jsonl").write_text("former")
    (tmp_path / "link").symlink_to("far/target.jsonl")
    assert export(lived, tmp_path / "link") == counts
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "target.jsonl").read_bytes() == plain
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["target.jsonl"]
    os.mkfifo(tmp_path / "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    export(lived, tmp_path / "pipe")
    reader.join(30)
    assert received == [plain]
    assert (tmp_path / "pipe").is_fifo()
    export(lived, Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_standard_output_takes_an_export(tmp_path):
    """Into a pipe, as `registry export --out /dev/stdout | gzip`."""
    code = (
        "from pathlib import Path; from registry.database import open_registry; from registry.transfer import export\n"
        f"export(open_registry('sqlite:///{tmp_path}/r.db'), Path('/dev/stdout'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert [json.loads(line)["table"] for line in done.stdout.splitlines()] == ["identity", "schema"]
