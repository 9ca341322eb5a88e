"""The verbs whose every change is a point: how each begins, and how it is called."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

import topgraft
from backbone import cache
from backbone.cache import RowCache, Variant
from backbone.home import boundaries_folder
from registry.database import open_registry
from registry.entries import NoRegistry, RegistryError
from registry.store import USERS
from registry.upgrade import newer
from tests.faults.world import TASK, World
from tests.registry.support import shift_clock

SETTINGS = (
    "data.dev_fraction=0.4",
    "retrain.gate.min_rows=5",
    "retrain.gate.tolerance=0.5",
    "retrain.gate.forgetting=0.5",
)
WIDTH, TOKENS, FILLED = 8, 5, 12  # of the rows of the scenario `cache`
VARIANT = Variant("sha256:w", 2, "none", "states", "", WIDTH, "float32", "cpu")


@dataclass(frozen=True)
class Scenario:
    """A verb from a state of home, registry and store."""

    name: str
    verb: str  # name in the report
    begin: Callable[[World], None]  # makes the state before
    act: Callable[[World], int]  # calls the verb, and returns its status; called again, it does what is missing
    again: frozenset[int] = frozenset({0})  # statuses of the second call
    on_server: bool = False  # the registry is in a PostgreSQL, and its statements alone are points


def command(*words: object) -> int:
    """Calls the console command."""
    return topgraft.main([str(word) for word in words])


def done(*words: object) -> None:
    """Calls the console command, which has to succeed."""
    assert command(*words) == 0, words


def place(world: World) -> tuple[str, ...]:
    return ("--registry", world.url, "--store", str(world.store))


def train(name: str) -> Callable[[World], int]:
    def act(world: World) -> int:
        world.write_rows(0)
        return command("train", world.inputs / f"{name}.py", "--workdir", world.workdir, "--resume", "--json")

    return act


def publish(number: int) -> Callable[[World], int]:
    return lambda world: command("registry", "publish", world.graft(number), "--task", TASK, *place(world))


def promote(number: int) -> Callable[[World], int]:
    return lambda world: command("registry", "promote", TASK, number, "--reason", "faults", *place(world))


def collect(world: World) -> int:
    return command("registry", "gc", "--keep", "0", *place(world))


def export(world: World) -> int:
    return command("registry", "export", "--out", world.exported, *place(world))


def export_graft(world: World) -> int:
    return command("export", world.graft(0), "--format", "peft", "--out", world.peft, "--backbone", world.backbone)


def retrain(added: int) -> Callable[[World], int]:
    settings = [word for text in SETTINGS for word in ("--set", text)]

    def act(world: World) -> int:
        world.write_rows(added)
        return command("retrain", world.inputs / "probe.py", *place(world), *settings, "--json")

    return act


def row(number: int) -> np.ndarray:
    """Returns the states of a row of the scenario `cache`, as a backbone would compute them."""
    return np.random.default_rng(number).normal(size=(TOKENS, WIDTH)).astype(np.float32)


def key(number: int) -> bytes:
    return bytes([number + 1]) * 16


def fill(world: World) -> int:
    """Stores rows in three segments; each that is there already has to be the row that it would be."""
    rows = RowCache(boundaries_folder(), VARIANT)
    try:
        with patch.object(cache, "SEGMENT_BYTES", 4 * TOKENS * WIDTH * 4), rows.writing():
            for number in range(FILLED):
                if rows.has(key(number), TOKENS):
                    assert np.array_equal(rows.read(key(number)), row(number)), number
                rows.add(key(number), TOKENS, row(number))
    except OSError as error:  # as the console command takes it
        print(f"topgraft: {error}")
        return 1
    return 0


def shrink(world: World) -> int:
    return command("cache", "gc", "--max-gib", "0")


def later(world: World) -> None:
    """Lets the leases of dead runs end."""
    with contextlib.suppress(NoRegistry), contextlib.closing(open_registry(world.url, create=False)) as registry:
        shift_clock(registry, 3600.0)


def nothing(world: World) -> None:
    """Begins with an empty home."""


def with_versions(*numbers: int, live: tuple[int, ...] = ()) -> Callable[[World], None]:
    """Begins with versions of a task, and some of them made live in order."""

    def begin(world: World) -> None:
        for number in numbers:
            assert publish(number)(world) == 0
        for number in live:
            assert promote(number)(world) == 0

    return begin


def exported_before(world: World) -> None:
    with_versions(0, live=(1,))(world)
    assert export(world) == 0
    assert publish(1)(world) == 0


def filled(world: World) -> None:
    assert fill(world) == 0


def trained_before(world: World) -> None:
    assert retrain(0)(world) == 0


def live_version(world: World) -> int:
    """Returns the number of the live version; 0 without one."""
    with contextlib.closing(open_registry(world.url, create=False)) as registry:
        live = registry.live(TASK)
        return live.version if live else 0


def roll_back(number: int) -> Callable[[World], int]:
    """Rolls back to version `number`; where that was done already, another call would go further back."""

    def act(world: World) -> int:
        try:
            if live_version(world) == number:
                return 0
        except RegistryError:  # as the console command takes it
            return 1
        return command("registry", "rollback", TASK, "--reason", "faults", *place(world))

    return act


def import_(world: World) -> int:
    return command("registry", "import", world.exported, *place(world))


def upgrade(world: World) -> int:
    return command("registry", "upgrade", *place(world))


def exported_and_lost(world: World) -> None:
    """Begins with an export, and with the store of a registry that is gone."""
    with_versions(0, 1, live=(1, 2))(world)
    assert export(world) == 0
    world.database.remove()


def of_former_schema(world: World) -> None:
    """Begins with tables of schema 1: without those that came later, and with a store that knows no registry."""
    with_versions(0, 1, live=(1, 2))(world)
    world.database.run(*(f"drop table {table.name}" for table in newer(1)), "update schema set version = 1")
    shutil.rmtree(world.store / USERS)


REGISTRY = (
    Scenario("publish the first version", "publish", nothing, publish(0)),
    Scenario("publish the next version", "publish", with_versions(0, live=(1,)), publish(1)),
    Scenario("promote", "promote", with_versions(0, 1, live=(1,)), promote(2)),
    Scenario("roll back", "rollback", with_versions(0, 1, live=(1, 2)), roll_back(1)),
    Scenario("import a registry", "import", exported_and_lost, import_, frozenset({0, 2})),
    Scenario("upgrade a registry", "upgrade", of_former_schema, upgrade),
    Scenario("gc", "gc", with_versions(0, 1, 2, 3, live=(1, 2, 3, 4)), collect),
    Scenario("export a registry", "export", exported_before, export),
    Scenario("retrain, the first time", "retrain", nothing, retrain(0)),
    Scenario("retrain with new rows", "retrain", trained_before, retrain(12)),
)
SCENARIOS = (
    *REGISTRY,
    *(replace(one, name=f"{one.name} on PostgreSQL", on_server=True) for one in REGISTRY),
    Scenario("export a graft", "export", nothing, export_graft, frozenset({0, 2})),
    Scenario("fill a cache", "cache", nothing, fill),
    Scenario("shrink a cache", "cache", filled, shrink),
    Scenario("train a probe", "train", nothing, train("probe")),
    Scenario("train LoRA", "train", nothing, train("lora")),
)
