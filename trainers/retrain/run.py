"""One retraining of one task, from fingerprint to promotion; the story of the verb.

    outcome = retrain(config, open_registry(url), Store(path), Options())

Killed at any instant, stopped for longer than its lease, run twice at once: the live version is wholly the
old one or wholly the new one, and the next run goes on from what was finished. Everything that another run
must know is in the registry; the work folder only spares work.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import math
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.manifest import Manifest, read_manifest
from adapters.specs import MultiLabel
from backbone.errors import InputError
from backbone.home import home
from backbone.records import digest, encode
from registry.database import Registry
from registry.leases import Heartbeat, heartbeat
from registry.spec import Conflict, Lease, LeaseHeld, Live, Version, require_task
from registry.store import Store
from trainers.config import TrainConfig
from trainers.retrain.decide import Decision, Prediction, decide, from_history, from_plan, unpriced
from trainers.retrain.diagnose import Diagnosis, added, diagnose
from trainers.retrain.fingerprint import Fingerprint, read, take
from trainers.retrain.known import Known, candidate_of, known, settled
from trainers.retrain.rows import Rows, load_rows, save_rows
from trainers.retrain.schema import check

if TYPE_CHECKING:
    from trainers.retrain.gate import Report

log = logging.getLogger(__name__)

Step = Literal["fingerprint", "diagnose", "decide", "train", "gate", "publish", "promote", "done"]
EXITS = {"PASS": 0, "FAIL": 10, "NO_EVIDENCE": 11}
REFUSED = 12
DAY = 24 * 3600.0
ROUNDS = 3  # times that a candidate is judged again because somebody changed the champion meanwhile
ASK_AGAIN = 0.5  # seconds between questions for a lease that another run holds


@dataclass(frozen=True)
class Options:
    """How a run goes; nothing here changes what it would train."""

    dry_run: bool = False  # decide and price only
    max_price: float | None = None  # CPU seconds above which a run is refused; None = no limit
    promote: bool = True  # switch the live version if the gate passes
    lease_seconds: float = 120.0  # after a run's last sign of life until another may take over
    wait_seconds: float = 0.0  # for the lease of another run
    show: bool = False  # progress bars

    def __post_init__(self) -> None:
        if not 0 < self.lease_seconds < math.inf:
            raise InputError(f"--lease: must be a positive number of seconds, got {self.lease_seconds}")
        for option, value in (("--wait", self.wait_seconds), ("--max-price", self.max_price or 0.0)):
            if not 0 <= value < math.inf:
                raise InputError(f"{option}: must be at least 0, got {value}")


@dataclass(frozen=True)
class Outcome:
    """What a run did; `--json` prints it."""

    task: str
    action: str  # nothing, head, warm, scratch, adopt (a version that an earlier run published), refused, error
    exit: int  # status of the command
    reason: str
    verdict: str = ""  # of the gate: PASS, FAIL, NO_EVIDENCE; "" where it was not asked
    version: int | None = None  # the candidate
    promoted: bool = False
    live: int | None = None  # version that is live now
    generation: int = 0  # of the live pointer
    changes: dict[str, Any] = field(default_factory=dict)  # what is different, and drift
    predicted: dict[str, Any] = field(default_factory=dict)  # cost
    measured: dict[str, Any] = field(default_factory=dict)  # cost
    rows_computed: int = 0  # forward passes of a row that no cache had
    gate: dict[str, Any] = field(default_factory=dict)  # the report
    run_id: str = ""  # in the registry
    seconds: float = 0.0  # wall time of the run

    @property
    def exit_status(self) -> int:
        return self.exit


OnStep = Callable[[Step], object]


def retrain(
    config: TrainConfig,
    registry: Registry,
    store: Store,
    options: Options,
    on_step: OnStep = lambda step: None,
) -> Outcome:
    """Retrains a task if it has to be; `on_step` is called before each step, and at the end.

    Raises InputError for bad data, config or a schema violation; LeaseHeld and Conflict where another run has the
    task; Unavailable where registry or store do not answer.
    """
    begun = time.monotonic()
    task = require_task(config.name)
    on_step("fingerprint")
    before = known(registry, task)
    now = take(config, before.fingerprint)
    if nothing := _nothing(registry, task, before, now.fingerprint):
        return nothing
    if options.dry_run:
        work = _Work(config, registry, store, options, on_step, before, now.fingerprint, now.rows, None)
        return replace(work.dry(), seconds=round(time.monotonic() - begun, 3))
    with _leased(registry, task, options) as beat:
        before = known(registry, task)  # another run may have ended meanwhile
        now = take(config, before.fingerprint)
        if nothing := _nothing(registry, task, before, now.fingerprint):
            return nothing
        work = _Work(config, registry, store, options, on_step, before, now.fingerprint, now.rows, beat)
        outcome = replace(work.whole(), seconds=round(time.monotonic() - begun, 3))
    on_step("done")
    return outcome


def _nothing(registry: Registry, task: str, before: Known, now: Fingerprint) -> Outcome | None:
    found = settled(registry, task, before, now)
    if found is None:
        return None
    live = before.live
    return Outcome(
        task=task,
        action="nothing",
        exit=EXITS.get(found.verdict, 0),
        reason=found.reason,
        verdict=found.verdict,
        live=live.version if live else None,
        generation=before.generation,
    )


@contextlib.contextmanager
def _leased(registry: Registry, task: str, options: Options) -> Iterator[Heartbeat]:
    """The task's lease while the block runs."""
    owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    until = time.monotonic() + options.wait_seconds
    while True:
        try:
            lease: Lease = registry.acquire(task, owner, options.lease_seconds)
            break
        except LeaseHeld as error:
            left = until - time.monotonic()
            if left <= 0:
                raise
            log.info("%s; waiting", error)
            time.sleep(min(ASK_AGAIN, left))
    with heartbeat(registry, lease) as beat:
        try:
            yield beat
        finally:
            registry.release(beat.lease)


@dataclass
class _Trained:
    """A candidate, published or not."""

    folder: Path
    cost: Any  # metering.window.Cost; None for a version that an earlier run trained
    rows_computed: int
    version: Version | None


@dataclass
class _Work:
    """The steps of a run that has something to do."""

    config: TrainConfig
    registry: Registry
    store: Store
    options: Options
    on_step: OnStep
    before: Known
    now: Fingerprint
    read_rows: Rows | None
    beat: Heartbeat | None

    def __post_init__(self) -> None:
        self.task, self.run_id = self.config.name, uuid.uuid4().hex
        self.parent: Manifest | None = None

    def dry(self) -> Outcome:
        """What would be done, and what it would cost."""
        found = self.diagnose()
        decision = self.decide(found)
        if refusal := self.policy(found):
            return self.refused(refusal, found, unpriced())
        predicted = self.price(decision, found)
        if refusal := self.too_dear(predicted):
            return self.refused(refusal, found, predicted)
        told = asdict(predicted)
        return Outcome(
            self.task, decision.action, 0, decision.reason, changes=_told(found), predicted=told, **self._live()
        )

    def whole(self) -> Outcome:
        """All steps; every way out leaves a record of the run."""
        detail: dict[str, Any] = {"key": self.now.key, "gate": self.now.gate, "generation": self.before.generation}
        try:
            found = self.diagnose()
        except InputError as error:
            self.registry.start_run(self.task, self.run_id, self._owner, self._fence, detail)
            self.registry.finish_run(self.task, self.run_id, "invalid", {"error": str(error)})
            raise
        self.on_step("decide")
        ready = candidate_of(self.registry, self.task, self.now)
        decision = self.decide(found)
        predicted = unpriced()
        if ready is None:
            refusal = self.policy(found)
            if not refusal:
                predicted = self.price(decision, found)
                refusal = self.too_dear(predicted)
            if refusal:
                self.registry.start_run(self.task, self.run_id, self._owner, self._fence, detail)
                self.registry.finish_run(self.task, self.run_id, "refused", {"reason": refusal})
                return self.refused(refusal, found, predicted)
        trains = {"action": "adopt" if ready else decision.action, "trains": ready is None}
        self.registry.start_run(self.task, self.run_id, self._owner, self._fence, detail | trains)
        try:
            outcome = self.work(decision, found, predicted, ready)
        except Exception as error:
            with contextlib.suppress(Exception):  # the note is a courtesy; the error is what counts
                self.registry.finish_run(self.task, self.run_id, "error", {"error": f"{type(error).__name__}: {error}"})
            raise
        cpu = outcome.measured.get("cpu_seconds") if ready is None else None
        told = {"version": outcome.version, "cpu_seconds": cpu, "train_rows": found.rows.get("train", 0)}
        generation = {"generation": self.before.generation}
        self.registry.finish_run(
            self.task,
            self.run_id,
            "promoted" if outcome.promoted else outcome.verdict,
            told | generation | {"reason": outcome.reason, "predicted": outcome.predicted},
        )
        return outcome

    @property
    def _owner(self) -> str:
        assert self.beat is not None
        return self.beat.lease.owner

    @property
    def _fence(self) -> int:
        assert self.beat is not None
        return self.beat.lease.token

    def _live(self) -> dict[str, Any]:
        live = self.before.live
        return {"live": live.version if live else None, "generation": self.before.generation}

    def diagnose(self) -> Diagnosis:
        """The schema, then what changed."""
        self.on_step("diagnose")
        self.rows = self.read_rows if self.read_rows is not None else read(self.config)[0]
        multi_label = isinstance(self.config.head, MultiLabel)
        check(self.config.retrain.schema, self.config.data, self.rows, multi_label=multi_label)
        prints = self.before.fingerprint.rows if self.before.fingerprint else None
        self.old = load_rows(self.store.root, prints) if prints is not None else None
        return diagnose(self.old or {}, self.rows)

    def decide(self, found: Diagnosis) -> Decision:
        """Head, warm or scratch."""
        if self.before.live is not None:
            self.parent = read_manifest(self.store.path(self.before.live.content_id))
        fingerprint = self.before.fingerprint if self.old is not None else None
        return decide(self.config, self.now, fingerprint, self.parent, found)

    def policy(self, found: Diagnosis) -> str:
        """Why the policy forbids to train now; empty if it does not."""
        policy = self.config.retrain
        known_rows = self.before.fingerprint is not None and self.before.fingerprint.config == self.now.config
        if known_rows and found.changed < policy.min_changed:
            return f"{found.changed} rows changed, retrain.min_changed is {policy.min_changed}"
        if policy.max_per_day:
            at = self.beat.lease.expires_at - self.beat.lease.seconds if self.beat else time.time()
            today = [r for r in self.before.runs if r.detail.get("trains") and r.started_at > at - DAY]
            if len(today) >= policy.max_per_day:
                return f"{len(today)} trainings in 24 hours, retrain.max_per_day is {policy.max_per_day}"
        return ""

    def price(self, decision: Decision, found: Diagnosis) -> Prediction:
        """CPU seconds and joules: from history, else from the plan where somebody asks."""
        rows = found.rows.get("train", 0)
        if predicted := from_history(self.before.runs, decision.action, rows):
            return predicted
        if self.options.max_price is None and not self.options.dry_run:
            return unpriced()
        missing = 1.0
        if self.old and "train" in self.old and "train" in self.rows:
            missing = float(added(self.old["train"], self.rows["train"]).mean())
        return from_plan(decision, missing)

    def too_dear(self, predicted: Prediction) -> str:
        """Why the price is too high; empty if it is not."""
        most = self.options.max_price
        if most is None or predicted.cpu_seconds is None or predicted.cpu_seconds <= most:
            return ""
        return f"predicted {predicted.cpu_seconds:g} CPU seconds, --max-price is {most:g} ({predicted.source})"

    def refused(self, reason: str, found: Diagnosis, predicted: Prediction) -> Outcome:
        told = asdict(predicted)
        return Outcome(self.task, "refused", REFUSED, reason, changes=_told(found), predicted=told, **self._live())

    def work(self, decision: Decision, found: Diagnosis, predicted: Prediction, ready: Version | None) -> Outcome:
        """Train, gate, publish, promote."""
        assert self.beat is not None
        with contextlib.ExitStack() as stack:
            if ready is not None:
                self.store.verify(ready.content_id)
                candidate = _Trained(self.store.path(ready.content_id), None, 0, ready)
                decision = replace(decision, reason=f"version {ready.number} was made from what there is now")
            else:
                workdir = stack.enter_context(own_folder(home() / "retrain" / self.task, self._work_key(decision)))
                self.on_step("train")
                candidate = self.train(decision, workdir)
            report, live = self.judge_and_promote(decision, found, predicted, candidate)
        assert candidate.version is not None
        promoted = live is not None and live.version == candidate.version.number
        here = {"live": live.version, "generation": live.generation} if live else self._live()
        return Outcome(
            task=self.task,
            action="adopt" if ready else decision.action,
            exit=EXITS[report.verdict],
            reason=decision.reason if report.verdict == "PASS" else report.failures(),
            verdict=report.verdict,
            version=candidate.version.number,
            promoted=promoted,
            changes=_told(found),
            predicted=asdict(predicted),
            measured=candidate.cost.asdict() if candidate.cost else {},
            rows_computed=candidate.rows_computed,
            gate=report.asdict(),
            run_id=self.run_id,
            **here,
        )

    def _work_key(self, decision: Decision) -> str:
        parent = self.before.live.content_id if self.before.live else ""
        return digest([self.now.key, parent, encode(decision.config)]).removeprefix("sha256:")[:24]

    def train(self, decision: Decision, workdir: Path) -> _Trained:
        """The candidate, trained or gone on with."""
        from metering.window import window
        from trainers.train import train
        from trainers.warm import Start

        assert self.beat is not None
        self.beat.require()
        start = None
        if decision.action != "scratch":
            assert self.before.live is not None
            self.store.verify(self.before.live.content_id)
            start = Start(self.store.path(self.before.live.content_id), head_only=decision.action == "head")
        log.info("%s: %s: %s", self.task, decision.action, decision.reason)
        with window("retrain") as cost:
            result = train(decision.config, workdir / "run", resume=True, start=start, show=self.options.show)
        if read_manifest(Path(result.graft)).training.data != self.now.rows:
            shutil.rmtree(workdir / "run")
            raise RuntimeError("the data files changed while they were trained on; nothing was published, run again")
        return _Trained(Path(result.graft), cost, result.rows_computed, None)

    def judge_and_promote(
        self, decision: Decision, found: Diagnosis, predicted: Prediction, candidate: _Trained
    ) -> tuple[Report, Live | None]:
        """The gate's report, and what is live if that was switched; judged again if the champion changed meanwhile."""
        from trainers.retrain.trial import Contestant, trial

        assert self.beat is not None
        for attempt in itertools.count(1):
            self.on_step("gate")
            self.beat.require()
            champion, old = self.before.live, self.old if attempt == 1 else self._old_rows()
            number = candidate.version.number if candidate.version else None
            report, drift = trial(
                self.config,
                Contestant(candidate.folder, number),
                Contestant(self.store.path(champion.content_id), champion.version) if champion else None,
                self.rows,
                old,
                candidate.cost,
            )
            found = replace(found, drift=(*(d for d in found.drift if d.what != "embeddings"), drift))
            self.on_step("publish")
            if candidate.version is None:
                candidate.version = self.publish(decision, found, predicted, candidate, report)
            self.on_step("promote")
            if report.verdict != "PASS" or not self.options.promote:
                return report, None
            try:
                return report, self.registry.promote(
                    self.task,
                    candidate.version.number,
                    expected_generation=self.before.generation,
                    actor=self._owner,
                    reason=decision.reason,
                    verdict=report.verdict,
                    gate=report.asdict(),
                    fence=self._fence,
                )
            except Conflict as error:
                fresh = known(self.registry, self.task)
                if attempt >= ROUNDS or fresh.generation == self.before.generation:
                    raise
                log.warning("%s; judging against the new champion", error)
                self.before = fresh
        raise AssertionError("unreachable")

    def _old_rows(self) -> Rows | None:
        prints = self.before.fingerprint.rows if self.before.fingerprint else None
        return load_rows(self.store.root, prints) if prints is not None else None

    def publish(
        self, decision: Decision, found: Diagnosis, predicted: Prediction, candidate: _Trained, report: Report
    ) -> Version:
        """The candidate as a version, with everything it was made from."""
        self.store.identity(create=True)
        save_rows(self.store.root, self.rows, self.now.rows)
        measured = candidate.cost.asdict()
        lineage = {
            "fingerprint": encode(self.now),
            "action": decision.action,
            "reason": decision.reason,
            "changes": _told(found),
            "predicted": asdict(predicted),
            "measured": measured,
            "rows_computed": candidate.rows_computed,
            "gate": report.asdict(),
            "run_id": self.run_id,
        }
        parent = self.before.live.version if self.before.live else None
        version = self.registry.publish(
            self.task, candidate.folder, self.store, parent=parent, lineage=lineage, fence=self._fence
        )
        self.registry.measure(
            self.task, version.number, "retraining, CPU seconds", measured["cpu_seconds"], "measured_counter"
        )
        joules = measured["joules"]
        self.registry.measure(
            self.task, version.number, "retraining, joules", joules["value"], joules["quality"], joules
        )
        return version


def _told(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis for JSON."""
    return {**dict(encode(found)), "changed": found.changed, "share": round(found.share, 6)}


@contextlib.contextmanager
def own_folder(base: Path, key: str) -> Iterator[Path]:
    """A work folder named by `key` that no other process uses, with what an interrupted run left there.

    A run that was stopped for longer than its lease may still be alive in the first one; then there is a second.
    The folder is removed when the block ends well.
    """
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        folder = base / f"{key}-{number}"
        with (base / f".{folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            folder.mkdir(exist_ok=True)
            _remove_abandoned(base, key)
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
            return


def _remove_abandoned(base: Path, key: str) -> None:
    """Removes work folders of other data that no process holds."""
    for folder in base.glob("*-*"):
        if folder.name.startswith(key) or not folder.is_dir():
            continue
        path = base / f".{folder.name}.lock"
        with path.open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)
