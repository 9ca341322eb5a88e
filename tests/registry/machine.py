"""A state machine of `hypothesis` over two registries that share a store, each with two actors, against a model.

The model knows lists and a stack; it shares no code with the registry. After every step what is live, the log, the
versions and the folders of the store are compared with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backbone.errors import InputError
from registry import tables
from registry.audit import audit
from registry.collect import collect, require_original
from registry.collect import mark as mark_versions
from registry.database import Registry, open_registry
from registry.entries import Conflict, Lease, LeaseHeld
from registry.store import USERS, Store
from registry.transfer import bring_in, export, read
from registry.users import Uses
from tests.registry.support import TOLD, shift_clock

TASKS = ("a", "b")
LONG = 600.0  # seconds of a lease
SIDES, ACTORS = 2, 2
EXAMPLES, STEPS = 25, 40  # runs of the machine, and operations of each
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing waits for a disk, or is meant to outlive one


@dataclass
class Task:
    """What the model knows of a task."""

    versions: list[int] = field(default_factory=list)  # number of the graft of each version, in order
    collected: set[int] = field(default_factory=set)  # numbers of versions without artefact
    log: list[int] = field(default_factory=list)  # versions that became live, in order
    stack: list[int] = field(default_factory=list)  # versions that a rollback would go through
    token: int = 0
    leased: bool = False
    leases: list[Lease] = field(default_factory=list)  # every lease there was


@dataclass
class Side:
    """A registry, its actors and its model."""

    url: str
    actors: list[Registry]
    tasks: dict[str, Task] = field(default_factory=lambda: {name: Task() for name in TASKS})
    order: list[str] = field(default_factory=list)  # task of each promotion
    moved: bool = False  # the store still knows it at its former place

    def published(self) -> set[int]:
        return {
            graft
            for task in self.tasks.values()
            for number, graft in enumerate(task.versions, start=1)
            if number not in task.collected
        }


class Machine(RuleBasedStateMachine):
    """Two registries on one store; `urls` makes empty databases, by default files."""

    def __init__(self, urls: Callable[[], str] | None, grafts: list[Path], counts: Counter[str]):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="topgraft-machine-", dir=MEMORY)
        self._grafts, self._counts, self._urls, self._moves = grafts, counts, urls, 0
        self.store = Store(Path(self._folder.name) / "store")
        self.names: dict[int, str] = {}  # folder of each graft that was published
        here = f"sqlite:///{self._folder.name}"
        addresses = [urls() if urls else f"{here}/first.db", f"{here}/second.db"]
        self.sides = [Side(url, [open_registry(url) for _ in range(ACTORS)]) for url in addresses]

    def teardown(self) -> None:
        for side in self.sides:
            for actor in side.actors:
                actor.close()
        self._folder.cleanup()

    def _at(self, side: int, actor: int, task: str) -> tuple[Side, Registry, Task]:
        self._counts["operations"] += 1
        return self.sides[side], self.sides[side].actors[actor], self.sides[side].tasks[task]

    side = st.integers(0, SIDES - 1)
    actor = st.integers(0, ACTORS - 1)
    task = st.sampled_from(TASKS)

    @rule(side=side, actor=actor, task=task, graft=st.integers(0, 4))
    def publish(self, side: int, actor: int, task: str, graft: int) -> None:
        _, registry, model = self._at(side, actor, task)
        version = registry.publish(task, self._grafts[graft], self.store)
        if graft not in model.versions:
            model.versions.append(graft)
        number = model.versions.index(graft) + 1
        model.collected.discard(number)
        self.names[graft] = version.path
        assert version.number == number

    @initialize()
    def begin(self) -> None:
        """Publishes the same versions on both sides, so that most steps find something to do."""
        for side in range(SIDES):
            for graft in (0, 1, 2):
                self.publish(side, 0, TASKS[0], graft)
            self.promote(side, 0, TASKS[0], 0, 0)

    @rule(side=side, actor=actor, task=task, pick=st.integers(0, 9), behind=st.sampled_from((0, 0, 0, 1)))
    def promote(self, side: int, actor: int, task: str, pick: int, behind: int) -> None:
        state, registry, model = self._at(side, actor, task)
        number = pick % (len(model.versions) + 1) + 1
        generation = len(model.log) - behind

        def call() -> int:
            return registry.promote(task, number, expected_generation=generation, **TOLD).generation

        if behind:
            refused(Conflict, call)
        elif number > len(model.versions):
            refused(InputError, call)
        elif model.log and model.log[-1] == number:
            assert call() == len(model.log)
        elif number in model.collected:
            refused(InputError, call)
        else:
            model.log.append(number)
            model.stack.append(number)
            state.order.append(task)
            assert call() == len(model.log)

    @rule(side=side, actor=actor, task=task)
    def rollback(self, side: int, actor: int, task: str) -> None:
        state, registry, model = self._at(side, actor, task)

        def call() -> int:
            return registry.rollback(task, actor="machine", reason="r").version

        if len(model.stack) < 2 or model.stack[-2] in model.collected:
            refused(InputError, call)
        else:
            model.stack.pop()
            model.log.append(model.stack[-1])
            state.order.append(task)
            assert call() == model.log[-1]

    @rule(side=side, actor=actor, task=task)
    def walk_back(self, side: int, actor: int, task: str) -> None:
        """Makes three versions live one after the other, and rolls back twice: past more than the last one."""
        for pick in range(3):
            self.promote(side, actor, task, pick, 0)
        for _ in range(2):
            self.rollback(side, actor, task)

    @rule(side=side, actor=actor, task=task)
    def acquire(self, side: int, actor: int, task: str) -> None:
        _, registry, model = self._at(side, actor, task)
        if model.leased:
            refused(LeaseHeld, lambda: registry.acquire(task, f"actor {actor}", LONG))
        else:
            model.leases.append(registry.acquire(task, f"actor {actor}", LONG))
            model.token, model.leased = model.token + 1, True
            assert model.leases[-1].token == model.token

    @rule(side=side, actor=actor, task=task, which=st.integers(0, 3), end=st.booleans())
    def use_lease(self, side: int, actor: int, task: str, which: int, end: bool) -> None:
        _, registry, model = self._at(side, actor, task)
        if not model.leases:
            return
        lease = model.leases[-1 - which % len(model.leases)]
        valid = model.leased and lease.token == model.token
        if end:
            registry.release(lease)
            model.leased = model.leased and not valid
        elif valid:
            registry.renew(lease)
        else:
            refused(Conflict, lambda: registry.renew(lease))
            refused(Conflict, lambda: registry.start_run(task, "r", "machine", fence=lease.token))

    @rule(side=side, task=task, end=st.booleans())
    def lose_a_lease(self, side: int, task: str, end: bool) -> None:
        """Stops an owner for longer than its lease; another takes over, and keeps its lease when the first goes on."""
        for owner in range(ACTORS):
            self.expire(side)
            self.acquire(side, owner, task)
        self.use_lease(side, 0, task, 1, end)
        self.use_lease(side, 1, task, 0, False)
        self.expire(side)  # gc finds more to do where nobody is at work

    @rule(side=side, actor=actor, task=task)
    def publish_again(self, side: int, actor: int, task: str) -> None:
        """Collects all that nothing protects, and publishes the first version whose artefact is gone."""
        model = self.sides[side].tasks[task]
        self.expire(side)  # gc leaves a task alone at which somebody is at work
        self.gc(side, actor, 0, False)
        if model.collected:
            self.publish(side, actor, task, model.versions[min(model.collected) - 1])

    @rule(side=side, actor=actor, task=task, which=st.integers(0, 3), graft=st.integers(0, 4))
    def work_with_a_lease(self, side: int, actor: int, task: str, which: int, graft: int) -> None:
        """Publishes and promotes as a run does: with the token of its lease, which must be the present one."""
        state, registry, model = self._at(side, actor, task)
        if not model.leases:
            return
        lease = model.leases[-1 - which % len(model.leases)]
        fence, generation = lease.token, len(model.log)
        if not (model.leased and fence == model.token):
            refused(Conflict, lambda: registry.publish(task, self._grafts[graft], self.store, fence=fence))
            number = max(1, len(model.versions))
            told = TOLD | {"expected_generation": generation, "fence": fence}
            refused(Conflict, lambda: registry.promote(task, number, **told))
            return
        version = registry.publish(task, self._grafts[graft], self.store, fence=fence)
        if graft not in model.versions:
            model.versions.append(graft)
        model.collected.discard(version.number)
        self.names[graft] = version.path
        assert version.number == model.versions.index(graft) + 1
        live = registry.promote(task, version.number, expected_generation=generation, fence=fence, **TOLD)
        if not model.log or model.log[-1] != version.number:
            model.log.append(version.number)
            model.stack.append(version.number)
            state.order.append(task)
        assert live.generation == len(model.log)

    @rule(side=side)
    @precondition(lambda self: any(side.order for side in self.sides))
    def move(self, side: int) -> None:
        """Moves a registry into another database, by its export; its actors go on there."""
        state = self.sides[side]
        self._counts["operations"] += 1
        with tempfile.TemporaryDirectory(dir=self._folder.name) as place:
            export(state.actors[0], Path(place) / "lines")
            before = [actor.change() for actor in state.actors]
            for actor in state.actors:
                actor.close()
            self._moves += 1
            file = f"sqlite:///{self._folder.name}/moved{self._moves}.db"
            state.url = self._urls() if self._urls and side == 0 else file
            with contextlib.closing(open_registry(state.url)) as empty:
                bring_in(empty, read(Path(place) / "lines"))
        state.actors = [open_registry(state.url) for _ in range(ACTORS)]
        state.moved = True
        assert [actor.change() for actor in state.actors] == before, "servers that follow it go on"

    @rule(side=side)
    @precondition(lambda self: any(side.order for side in self.sides))
    def upgrade(self, side: int) -> None:
        """Brings tables of a former schema forward, beside an actor that has them open."""
        state = self.sides[side]
        self._counts["operations"] += 1
        if any(model.leased for model in state.tasks.values()):
            return
        registry = state.actors[0]
        before = registry.change()
        with registry.database.engine.begin() as connection:
            for table in (tables.identity, tables.log):
                table.drop(connection)
            connection.execute(tables.schema.update().values(version=1))
        for mark in (self.store.root / USERS).glob(f"{before.registry}*"):
            shutil.rmtree(mark) if mark.is_dir() else mark.unlink()  # a former version left none
        assert registry.database.upgrade() == 1
        after = registry.change()
        assert after.position == before.position == len(state.order)
        assert after.registry not in ("", before.registry)
        if registry.store_id() is not None:
            uses = Uses(self.store, after.registry)
            require_original(registry, uses)
            mark_versions(registry, uses)
        state.moved = False

    @rule(side=side)
    def expire(self, side: int) -> None:
        state, registry, _ = self._at(side, 0, TASKS[0])
        shift_clock(registry, 2 * LONG)
        for model in state.tasks.values():
            model.leased = False

    @rule(side=side, actor=actor, keep=st.sampled_from((0, 0, 1, 3)), dry_run=st.booleans())
    def gc(self, side: int, actor: int, keep: int, dry_run: bool) -> None:
        state, registry, _ = self._at(side, actor, TASKS[0])
        if not any(model.versions for model in state.tasks.values()):
            return
        before = set().union(*(each.published() for each in self.sides))
        former = {name: set(model.collected) for name, model in state.tasks.items()}
        expected = {}
        for name, model in state.tasks.items():
            kept = set(range(len(model.versions) - keep + 1, len(model.versions) + 1)) | set(model.log[-2:])
            kept |= set(model.stack[-2:])
            going = [n for n in range(1, len(model.versions) + 1) if n not in kept | model.collected]
            if going and not model.leased:
                expected[name] = going
                model.collected |= set(going)
        gone = before - set().union(*(each.published() for each in self.sides))
        if state.moved:
            refused(InputError, lambda: collect(registry, self.store, keep=keep, dry_run=dry_run))
        done = collect(registry, self.store, keep=keep, dry_run=dry_run, moved=state.moved)
        state.moved &= dry_run
        assert done.versions == expected
        assert sorted(done.removed) == sorted(self.names[graft] for graft in gone)
        if dry_run:
            for name, model in state.tasks.items():
                model.collected = former[name]

    @rule(side=side)
    @precondition(lambda self: any(side.order for side in self.sides))
    def copy(self, side: int) -> None:
        _, registry, _ = self._at(side, 0, TASKS[0])
        with tempfile.TemporaryDirectory(dir=self._folder.name) as place:
            first, second = Path(place) / "first", Path(place) / "second"
            export(registry, first)
            with contextlib.closing(open_registry(f"sqlite:///{place}/copy.db")) as other:
                bring_in(other, read(first))
                export(other, second)
            assert first.read_bytes() == second.read_bytes()

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        for state in self.sides:
            for number, registry in enumerate(state.actors):
                lives = registry.lives()
                for name, model in state.tasks.items():
                    live = lives.get(name)
                    assert (live.version if live else None) == (model.log[-1] if model.log else None)
                    assert (live.previous if live else None) == (model.stack[-2] if len(model.stack) > 1 else None)
                    if number == 0:
                        assert [entry.to_version for entry in registry.promotions(name)] == model.log
                        states = [version.state == "collected" for version in reversed(registry.versions(name))]
                        assert states == [n in model.collected for n in range(1, len(model.versions) + 1)]
                assert registry.change().position == len(state.order)
            assert len(state.actors[0].entries(0, 10_000)) == len(state.order)
        folders = {path.name for path in self.store.root.glob("*") if len(path.name) == 64}
        assert folders == {self.names[graft] for side in self.sides for graft in side.published()}

    @invariant()
    def an_audit_finds_nothing(self) -> None:
        for state in self.sides:
            if any(model.versions for model in state.tasks.values()):
                assert audit(state.actors[0], self.store).orphans == []


def refused(error: type[Exception], call: Callable[[], object]) -> None:
    """Requires that a call raises."""
    try:
        call()
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


def drive(
    urls: Callable[[], str] | None,
    grafts: list[Path],
    examples: int = EXAMPLES,
    steps: int = STEPS,
    *,
    counts: Counter[str] | None = None,
    shortest: bool = True,
) -> int:
    """Runs the machine, and returns the number of operations, which `counts` holds too.

    Raises the error of a step that differs from the model. `shortest` first looks for the shortest way there.
    """
    counts = Counter() if counts is None else counts
    phases = tuple(Phase) if shortest else (Phase.generate,)
    run_state_machine_as_test(
        lambda: Machine(urls, grafts, counts),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return counts["operations"]
