"""The steps of a retraining that has something to do: diagnose, decide, train, gate, publish, promote."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from adapters.artefact.manifest import Manifest, read_manifest
from backbone.errors import InputError
from backbone.records import digest, encode
from metering.cost import CostRecord
from metering.window import cpu_seconds
from registry.budgets.budget import Budget
from registry.budgets.signers import Signers
from registry.database import Registry
from registry.decisions import missing_decision
from registry.entries import Conflict, Live, Version
from registry.leases import Heartbeat
from registry.store import Store, rows_name
from trainers.config import TrainConfig
from trainers.retrain.beforehand import count_checks, misspelt, unjudgeable
from trainers.retrain.decide import Decision, decide, unpriced
from trainers.retrain.diagnose import Diagnosis, diagnose
from trainers.retrain.fingerprint import Fingerprint, Taken, read
from trainers.retrain.history import CHECKED, Known, candidate_of, known, only_held_out_changed
from trainers.retrain.limits import by_policy, by_price, price
from trainers.retrain.lineage import GateReport, PriceEstimate
from trainers.retrain.outcome import EXIT_STATUS, NOT_REACHED, REFUSED, OnStep, Options, Outcome
from trainers.retrain.rows import Rows, load_rows, save_rows
from trainers.retrain.schema import check
from trainers.retrain.workspace import own_folder, remove_abandoned, work_folders

if TYPE_CHECKING:
    from metering.window import Cost

log = logging.getLogger(__name__)

ROUNDS = 3  # times that a candidate is judged again because somebody changed the champion meanwhile


class _Place(TypedDict):
    """The live version of a task, and its generation."""

    live: int | None
    generation: int


@dataclass
class Trained:
    """A candidate, published or not."""

    folder: Path  # folder of the graft
    cost: Cost | None  # cost of the training; None for a version that an earlier run trained
    rows_computed: int  # forward passes of a row that no cache had
    version: Version | None  # None: not published yet


@dataclass
class Work:
    """The steps of a run that has something to do."""

    config: TrainConfig
    registry: Registry
    store: Store
    options: Options
    on_step: OnStep
    before: Known
    taken: Taken
    beat: Heartbeat | None
    budget: Budget
    signers: Signers
    cpu_before: float = 0.0  # CPU seconds of the process when the verb began

    def __post_init__(self) -> None:
        self.task, self.run_id = self.config.name, uuid.uuid4().hex
        self.parent: Manifest | None = None

    def dry(self) -> Outcome:
        """Returns the action that a run would take, and its price."""
        diagnosis = self.diagnose()
        if reason := self.undecided():
            return self.refused(reason, diagnosis, unpriced())
        decision = self.decide(diagnosis)
        if only_held_out_changed(self.before, self.taken):
            return self.held_out(diagnosis, "would be checked")
        refusal, predicted = self.refusal(decision, diagnosis)
        if refusal:
            return self.refused(refusal, diagnosis, predicted)
        if self.options.promote and (reason := unjudgeable(self.config.retrain.gate, self.rows)):
            return self.unjudged(reason, diagnosis)
        return Outcome(
            self.task,
            decision.action,
            0,
            decision.reason,
            changes=diagnosis.report(),
            predicted=predicted,
            **self._live(),
        )

    def whole(self) -> Outcome:
        """Runs all steps; every way out leaves a record of the run."""
        try:
            diagnosis = self.diagnose()
        except InputError as error:
            self._record("invalid", {"error": str(error)})
            raise
        if reason := self.undecided():
            self._record("refused", {"reason": reason})
            return self.refused(reason, diagnosis, unpriced())
        self.on_step("decide")
        ready = candidate_of(self.registry, self.task, self.taken)
        decision = self.decide(diagnosis)
        predicted = unpriced()
        if only_held_out_changed(self.before, self.taken):
            return self.checked(diagnosis)
        if ready is None:
            refusal, predicted = self.refusal(decision, diagnosis)
            if refusal:
                self._record("refused", {"reason": refusal})
                return self.refused(refusal, diagnosis, predicted)
            if self.options.promote and (reason := unjudgeable(self.config.retrain.gate, self.rows)):
                self._record("unjudged", {"reason": reason})
                return self.unjudged(reason, diagnosis)
            if suspects := self.suspects(diagnosis):
                self._record(suspects.verdict, {"reason": suspects.failures(), "report": encode(suspects)})
                return self.suspected(suspects, diagnosis, predicted)
        self._start(action="adopt" if ready else decision.action, trains=ready is None)
        try:
            outcome = self.work(decision, diagnosis, predicted, ready)
        except Exception as error:  # of any kind: the run's record names it, and it is raised again
            with contextlib.suppress(Exception):  # the note is a courtesy; the error is what counts
                self._finish("error", {"error": f"{type(error).__name__}: {error}"})
            raise
        cpu = outcome.measured.cpu_seconds if isinstance(outcome.measured, CostRecord) else None
        outcome = replace(outcome, cpu_seconds=round(cpu_seconds() - self.cpu_before, 3))
        detail: dict[str, Any] = {
            "version": outcome.version,
            "cpu_seconds": cpu,
            "verb_cpu_seconds": outcome.cpu_seconds,
            "train_rows": diagnosis.rows.get("train", 0),
            "changed_rows": diagnosis.changed_everywhere,
        }
        detail |= {"generation": self.before.generation, "reason": outcome.reason, "predicted": encode(predicted)}
        self._finish("promoted" if outcome.promoted else outcome.verdict, detail)
        return outcome

    def _record(self, outcome: str, detail: Mapping[str, Any]) -> None:
        """Records this run, which ended before anything was trained."""
        self._start()
        self._finish(outcome, detail)

    def _start(self, **detail: Any) -> None:
        """Records the start of this run, and its fingerprint."""
        now = {"key": self.now.key, "gate": self.now.gate, "scheme": self.now.scheme}
        now |= {"gate_rows": self.now.rows.get("gate", "")}
        detail = {**now, "generation": self.before.generation, **detail}
        self.registry.start_run(self.task, self.run_id, self._owner, self._fence, detail)

    def _finish(self, outcome: str, detail: Mapping[str, Any]) -> None:
        """Records how the run ended."""
        self.registry.finish_run(self.task, self.run_id, outcome, dict(detail))

    @property
    def now(self) -> Fingerprint:
        """Returns the fingerprint of the candidate."""
        return self.taken.fingerprint

    @property
    def _owner(self) -> str:
        assert self.beat is not None
        return self.beat.lease.owner

    @property
    def _fence(self) -> int:
        assert self.beat is not None
        return self.beat.lease.token

    def _live(self) -> _Place:
        live = self.before.live
        return {"live": live.version if live else None, "generation": self.before.generation}

    def diagnose(self) -> Diagnosis:
        """Checks the schema, then returns the changes."""
        self.on_step("diagnose")
        self.rows = self.taken.rows if self.taken.rows is not None else read(self.config).rows
        check(self.config.retrain.schema, self.config.data, self.rows, self.config.head.column)
        self.old = self._old_rows()
        return diagnose(self.old or {}, self.rows)

    def decide(self, diagnosis: Diagnosis) -> Decision:
        """Chooses head, warm or scratch."""
        if self.before.live is not None:
            self.parent = self.store.verify(self.before.live.content_id)
        stored = self.before.fingerprint if self.old is not None else None
        now = self.taken.in_scheme(stored.scheme) if stored is not None else self.now
        return decide(self.config, now, stored, self.parent, diagnosis)

    def undecided(self) -> str:
        """Returns why the policy on searches refuses the run; "" if it does not."""
        if self.config.retrain.search != "decided":
            return ""
        return missing_decision(self.registry, self.task, encode(self.config))

    def refusal(self, decision: Decision, diagnosis: Diagnosis) -> tuple[str, PriceEstimate]:
        """Returns why the run is refused (empty if it is not), and its price."""
        at = self.beat.lease.expires_at - self.beat.lease.seconds if self.beat else None
        if reason := by_policy(self.config, self.before, self.taken, diagnosis, at):
            return reason, unpriced()
        predicted = price(decision, self.before, diagnosis, self.old, self.rows, self.options, self.cpu_before)
        return by_price(predicted, self.options.max_price), predicted

    def refused(self, reason: str, diagnosis: Diagnosis, predicted: PriceEstimate) -> Outcome:
        """Returns the outcome of a run that a policy or a price refuses."""
        changes = diagnosis.report()
        return Outcome(self.task, "refused", REFUSED, reason, changes=changes, predicted=predicted, **self._live())

    def unjudged(self, reason: str, diagnosis: Diagnosis) -> Outcome:
        """Returns the outcome of a run whose candidate could not be judged, so none is trained."""
        status = EXIT_STATUS["NO_EVIDENCE"]
        return Outcome(
            self.task, "refused", status, reason, verdict="NO_EVIDENCE", changes=diagnosis.report(), **self._live()
        )

    def suspects(self, diagnosis: Diagnosis) -> GateReport | None:
        """Returns the report on changed rows that contradict what is live; None where nothing is wrong with them."""
        if self.old is None or self.before.live is None:
            return None
        self.on_step("check")
        limits = self.config.retrain.rows
        checks = [*count_checks(limits, self.old, self.rows)]
        slips = misspelt(self.old, self.rows, (*limits.new_labels, *self.config.retrain.schema.labels))
        if (slips or diagnosis.changed_everywhere >= limits.min_rows) and self.parent is not None:
            from adapters.machine import ready_to_compute
            from trainers.retrain.compare import Contestant
            from trainers.retrain.suspects import label_checks, spelling_checks

            ready_to_compute()
            live = Contestant(self.store.path(self.before.live.content_id), self.before.live.version)
            try:
                checks += spelling_checks(self.config, live, self.rows, self.old, slips) if slips else ()
                checks += label_checks(self.config, live, self.rows, self.old)
            except InputError as error:
                self._record("invalid", {"error": str(error)})
                raise
        if all(check.verdict == "PASS" for check in checks):
            return None
        counts = {name: len(split) for name, split in self.rows.items()}
        return GateReport("FAIL", "train", self.before.live.version, counts, {}, {}, tuple(checks))

    def checked(self, diagnosis: Diagnosis) -> Outcome:
        """Checks rows that nobody trains on, where they alone have changed; they judge the next candidate."""
        if suspects := self.suspects(diagnosis):
            self._record(suspects.verdict, {"reason": suspects.failures(), "report": encode(suspects)})
            return self.suspected(suspects, diagnosis, unpriced())
        self._record(CHECKED, {})
        return self.held_out(diagnosis, "have nothing wrong, and judge the next candidate")

    def held_out(self, diagnosis: Diagnosis, fate: str) -> Outcome:
        """Returns the outcome of a run with nothing to train, since held-out rows alone have changed."""
        reason = f"only held-out rows changed; they {fate}"
        return Outcome(self.task, "nothing", 0, reason, changes=diagnosis.report(), **self._live())

    def suspected(self, report: GateReport, diagnosis: Diagnosis, predicted: PriceEstimate) -> Outcome:
        """Returns the outcome of a run whose changed rows contradict what is live, so nothing is trained."""
        return Outcome(
            self.task,
            "refused",
            EXIT_STATUS[report.verdict],
            report.failures(),
            verdict=report.verdict,
            changes=diagnosis.report(),
            predicted=predicted,
            gate=report,
            run_id=self.run_id,
            **self._live(),
        )

    def work(
        self, decision: Decision, diagnosis: Diagnosis, predicted: PriceEstimate, ready: Version | None
    ) -> Outcome:
        """Trains, judges, publishes and promotes."""
        assert self.beat is not None
        with contextlib.ExitStack() as stack:
            if ready is not None:
                self.store.verify(ready.content_id)
                remove_abandoned(work_folders(self.task))  # the run that published it may have died before it did
                candidate = Trained(self.store.path(ready.content_id), None, 0, ready)
                decision = replace(decision, reason=f"version {ready.number} was made from what there is now")
            else:
                workdir = stack.enter_context(own_folder(work_folders(self.task), self._work_key(decision)))
                self.on_step("train")
                candidate = self.train(decision, workdir)
            report, live = self.judge_and_promote(decision, diagnosis, predicted, candidate)
        assert candidate.version is not None
        promoted = live is not None and live.version == candidate.version.number
        here: _Place = {"live": live.version, "generation": live.generation} if live else self._live()
        return Outcome(
            task=self.task,
            action="adopt" if ready else decision.action,
            exit=EXIT_STATUS[report.verdict],
            reason=decision.reason if report.verdict == "PASS" else report.failures(),
            verdict=report.verdict,
            version=candidate.version.number,
            promoted=promoted,
            changes=diagnosis.report(),
            predicted=predicted,
            measured=candidate.cost.record() if candidate.cost else NOT_REACHED,
            rows_computed=candidate.rows_computed,
            gate=report,
            run_id=self.run_id,
            **here,
        )

    def _work_key(self, decision: Decision) -> str:
        parent = self.before.live.content_id if self.before.live else ""
        return digest([self.now.key, parent, encode(decision.config)]).removeprefix("sha256:")[:24]

    def train(self, decision: Decision, workdir: Path) -> Trained:
        """Trains the candidate, from where an interrupted run left off."""
        from metering.window import window
        from trainers.fitting.warm_start import Start
        from trainers.train import train

        assert self.beat is not None
        self.beat.require()
        start = None
        if decision.action != "scratch":
            assert self.before.live is not None
            self.store.verify(self.before.live.content_id)
            folder = self.store.path(self.before.live.content_id)
            start = Start(folder, head_only=decision.action == "head", from_climb=self.config.climbs)
        log.info("%s: %s: %s", self.task, decision.action, decision.reason)
        with window("retrain") as cost:
            result = train(
                decision.config,
                workdir / "run",
                resume=True,
                start=start,
                judged_on_dev="gate" not in self.rows,
                show=self.options.show,
            )
        if read_manifest(Path(result.graft)).training.data != self.now.rows:
            shutil.rmtree(workdir / "run")
            raise RuntimeError("the data files changed while they were trained on; nothing was published, run again")
        return Trained(Path(result.graft), cost, result.rows_computed, None)

    def judge_and_promote(
        self, decision: Decision, diagnosis: Diagnosis, predicted: PriceEstimate, candidate: Trained
    ) -> tuple[GateReport, Live | None]:
        """Returns the gate's report, and the live version if that was switched.

        If the champion changes meanwhile, the candidate is judged again.
        """
        from trainers.retrain.compare import Contestant, trial

        assert self.beat is not None
        for attempt in itertools.count(1):
            self.on_step("gate")
            self.beat.require()
            champion, old = self.before.live, self.old if attempt == 1 else self._old_rows()
            if champion is not None:
                self.store.verify(champion.content_id)
            number = candidate.version.number if candidate.version else None
            report, drift = trial(
                self.config,
                Contestant(candidate.folder, number),
                Contestant(self.store.path(champion.content_id), champion.version) if champion else None,
                self.rows,
                old,
                candidate.cost,
                self.budget,
            )
            diagnosis = replace(diagnosis, drift=(*(d for d in diagnosis.drift if d.what != "embeddings"), drift))
            self.on_step("publish")
            if candidate.version is None:
                candidate.version = self.publish(decision, diagnosis, predicted, candidate, report)
            self.on_step("promote")
            if report.verdict != "PASS" or not self.options.promote:
                return report, None
            self.signers.require(self.store.path(candidate.version.content_id))
            try:
                return report, self.registry.promote(
                    self.task,
                    candidate.version.number,
                    expected_generation=self.before.generation,
                    actor=self._owner,
                    reason=decision.reason,
                    verdict=report.verdict,
                    gate=encode(report),
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
        """Returns the rows that the live version was made from; None where they are not known."""
        prints = self.before.fingerprint.rows if self.before.fingerprint else None
        if prints is None:
            return None
        self.store.bring(rows_name(prints))
        return load_rows(self.store.root, prints)

    def publish(
        self, decision: Decision, diagnosis: Diagnosis, predicted: PriceEstimate, candidate: Trained, report: GateReport
    ) -> Version:
        """Publishes the candidate as a version, with its lineage."""
        with self.registry.database.reading() as connection:
            self.registry.require_store(connection, self.store)  # an empty mount point is not made a store
        self.store.identity(create=True)
        with self.store.reached():
            save_rows(self.store.root, self.rows, self.now.rows)
        self.store.share(rows_name(self.now.rows))
        if self.options.sign:
            from backbone.signing.bundle import sign_folder

            sign_folder(candidate.folder, self.options.sign)
        assert candidate.cost is not None
        measured = candidate.cost.record()
        lineage = {
            "fingerprint": encode(self.now),
            "action": decision.action,
            "reason": decision.reason,
            "changes": encode(diagnosis.report()),
            "predicted": encode(predicted),
            "measured": encode(measured),
            "rows_computed": candidate.rows_computed,
            "gate": encode(report),
            "metric": self.config.metric,
            "run_id": self.run_id,
        }
        parent = self.before.live.version if self.before.live else None
        version = self.registry.publish(
            self.task, candidate.folder, self.store, parent=parent, lineage=lineage, fence=self._fence
        )
        self.registry.measure(
            self.task, version.number, "retraining, CPU seconds", measured.cpu_seconds, "measured_counter"
        )
        joules = measured.joules
        self.registry.measure(
            self.task, version.number, "retraining, joules", joules.value, joules.quality, encode(joules)
        )
        return version
