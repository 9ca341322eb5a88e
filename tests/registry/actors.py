"""Processes for the tests of the registry, and for benchmarks/registry.py. Imports no jax, so it may fork.

python -m tests.registry.actors promoters URL PROMOTERS EACH
python -m tests.registry.actors holder URL SECONDS
python -m tests.registry.actors killed URL STORE GRAFT FIRST STRIDE
python -m tests.registry.actors full STORE GRAFT
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from registry.audit import audit
from registry.database import Registry, open_registry
from registry.entries import Conflict, Unavailable
from registry.leases import heartbeat
from registry.store import USERS, Store
from registry.tables import metadata, versions

ROOT = Path(__file__).resolve().parents[2]
STEPS = (str(ROOT / "registry"), str(ROOT / "backbone" / "files.py"))  # where each line is a step


def forked(work: Callable[[], None]) -> int:
    """The process id of a child that does `work`; it ends with status 1 if that raises."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except Exception:  # noqa: BLE001, a child says what went wrong and ends
        traceback.print_exc()
    finally:
        os._exit(status)


def invented(registry: Registry, task: str, count: int) -> None:
    """Versions without artefacts: what is measured and raced for here is the database."""
    values = [
        {
            "task": task,
            "number": number,
            "content_id": f"sha256:{number:064x}",
            "weights_id": "sha256:0",
            "path": f"{number:064x}",
            "parent": number - 1 or None,
            "created_at": float(number),
            "metrics": {"test": {"accuracy": 0.9}},
            "lineage": {"rows": f"sha256:{number:064x}", "cpu_seconds": 12.5},
            "state": "published",
        }
        for number in range(1, count + 1)
    ]
    with registry.database.writing(task) as connection:
        connection.execute(versions.insert(), values)


def promoters(url: str, count: int, each: int) -> None:
    """`count` processes open a new registry at once and promote until each has won `each` times.

    Then the log must hold what they won, no more and no less, each entry following the one before.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(count)]
        children = [forked(lambda n=n: promoter(url, n, each, files[n])) for n in range(count)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * count
        found = [json.loads(file.read_text()) for file in files]
    with contextlib.closing(open_registry(url)) as registry:
        log = registry.promotions("task")
        live = registry.live("task")
        changes = registry.change().position
    assert sorted(tuple(won) for one in found for won in one["won"]) == [(e.generation, e.to_version) for e in log]
    assert [e.generation for e in log] == list(range(1, count * each + 1))
    assert [e.from_version for e in log] == [None, *(e.to_version for e in log[:-1])]
    assert live is not None
    assert (live.generation, live.version) == (changes, log[-1].to_version)
    print(json.dumps({"promotions": len(log), "refused": sum(one["refused"] for one in found)}))


def promoter(url: str, number: int, each: int, out: Path) -> None:
    """Wins `each` promotions and writes which they were."""
    with contextlib.closing(open_registry(url)) as registry:
        if number == 0:
            invented(registry, "task", 10)
        while not registry.versions("task", 1):
            pass
        won: list[tuple[int, int]] = []
        refused, draw = 0, random.Random(number)
        while len(won) < each:
            live = registry.live("task")
            other = draw.choice([n for n in range(1, 11) if live is None or n != live.version])
            generation = live.generation if live else 0
            told = {"actor": f"p{number}", "reason": "r", "verdict": "PASS"}
            try:
                mine = registry.promote("task", other, expected_generation=generation, **told)
                won.append((mine.generation, mine.version))
            except Conflict:
                refused += 1
    out.write_text(json.dumps({"won": won, "refused": refused}))


def holder(url: str, seconds: float) -> None:
    """Takes the lease, says so, waits for a line, then promotes version 1 if it still may."""
    with contextlib.closing(open_registry(url)) as registry:
        lease = registry.acquire("task", "holder", seconds)
        with heartbeat(registry, lease) as beating:
            print(lease.token, flush=True)
            sys.stdin.readline()
            beating.lost.wait(1)
            for step in (
                beating.require,
                lambda: registry.promote(
                    "task", 1, expected_generation=0, actor="h", reason="r", verdict="PASS", fence=lease.token
                ),
            ):
                try:
                    step()
                    print("done", flush=True)
                except Conflict as error:
                    print(f"Conflict: {error}", flush=True)


def killed(url: str, store: Store, graft: Path, first: Path, stride: int) -> None:
    """Publishes and promotes in children killed at every `stride`-th line they come to.

    After each kill what is live is the old version or the new one, and it loads; nothing is half there; and
    the same calls again lead to one version and one promotion.
    """
    counts = {"kills": 0, "nothing": 0, "published": 0, "promoted": 0}
    told = {"actor": "a", "reason": "first", "verdict": "PASS"}
    for step in itertools.count(0, stride):
        shutil.rmtree(store.root, ignore_errors=True)
        with contextlib.closing(open_registry(url)) as registry:
            emptied(registry)
            registry.publish("task", first, store)
            registry.promote("task", 1, expected_generation=0, **told)
        _, status = os.waitpid(forked(lambda step=step: dying(url, store, graft, step)), 0)
        assert status in (0, signal.SIGKILL), status
        with contextlib.closing(open_registry(url)) as registry:
            for folder in store.root.iterdir():
                if folder.is_dir() and not folder.name.startswith(".") and folder.name != USERS:
                    store.verify(f"sha256:{folder.name}")
            audit(registry, store)
            live, there = registry.live("task"), registry.versions("task")
            assert live is not None
            assert live.version == live.generation == len(registry.promotions("task"))
            counts["promoted" if live.version == 2 else "published" if len(there) == 2 else "nothing"] += 1
            publish_and_promote(registry, store, graft)
            assert [v.number for v in registry.versions("task")] == [2, 1]
            assert [(e.from_version, e.to_version) for e in registry.promotions("task")] == [(None, 1), (1, 2)]
            audit(registry, store)
        if status == 0:
            break
        counts["kills"] += 1
    print(json.dumps(counts))


def emptied(registry: Registry) -> None:
    """No rows, and no store known."""
    with registry.database.writing() as connection:
        for table in metadata.tables.values():
            if table.name not in ("schema", "identity"):
                connection.execute(table.delete())
        connection.execute(metadata.tables["schema"].update().values(store_id=None))


def publish_and_promote(registry: Registry, store: Store, graft: Path) -> None:
    """What a run does at its end; done again, it does only what is missing."""
    version = registry.publish("task", graft, store)
    live = registry.live("task")
    assert live is not None
    told = {"actor": "a", "reason": "next", "verdict": "PASS"}
    registry.promote("task", version.number, expected_generation=live.generation, **told)


def dying(url: str, store: Store, graft: Path, step: int) -> None:
    """Kills itself, with SIGKILL, at the line of `STEPS` before which it has been at `step` others."""
    seen: set[tuple[str, int]] = set()

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(STEPS):
            return None
        if what == "line" and (file, frame.f_lineno) not in seen:
            if len(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.add((file, frame.f_lineno))
        return trace

    with contextlib.closing(open_registry(url)) as registry:
        sys.settrace(trace)
        publish_and_promote(registry, store, graft)
        sys.settrace(None)


def full(store: Store, graft: Path) -> None:
    """Publishes under a limit on the size of files that stands for a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    try:
        store.add(graft)
    except Unavailable as error:
        print(f"Unavailable: {error}")


def main(what: str, *arguments: str) -> None:
    if what == "promoters":
        promoters(arguments[0], int(arguments[1]), int(arguments[2]))
    elif what == "holder":
        holder(arguments[0], float(arguments[1]))
    elif what == "killed":
        url, store, graft, first, stride = arguments
        killed(url, Store(store), Path(graft), Path(first), int(stride))
    else:
        full(Store(arguments[0]), Path(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
