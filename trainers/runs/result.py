"""The records of a training run: its stages, its climb, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from metering.cost import CostRecord
from trainers.runs.reading import ReadReport
from trainers.runs.targets import Limit


@dataclass(frozen=True, kw_only=True)
class StageRecord(CostRecord):
    """The work and cost of one stage, in all processes of the run."""

    until: int  # micro-batches at which the stage ends
    boundary: int  # first live block
    cached: bool  # hidden states at the boundary came from the cache
    steps: int  # micro-batches run

    @property
    def cost(self) -> CostRecord:
        """Returns the cost alone."""
        return CostRecord(**{one.name: getattr(self, one.name) for one in fields(CostRecord)})


@dataclass(frozen=True)
class ClimbRecord:
    """One step that a climb tried."""

    name: str  # probe, probe_all, top, all
    score: float  # score of the config's metric: of probes on rows they had not seen, else on the development rows
    kept: bool  # better than the step kept before
    cost: CostRecord
    gain: float | None = None  # score less that of the step kept before; None for the first
    noise: float | None = None  # spread of that gain; None for the first


UNSEEN_SPLITS = {"out of fold": "out_of_fold", "held out": "held_out"}  # names of their metrics, by how they were


@dataclass(frozen=True)
class Estimate:
    """A score, with what it was measured on."""

    split: str  # dev, test; or train and dev, for rows that were fitted once they had been scored
    how: str  # "out of fold": by heads fitted to the other parts of the rows; "held out"; "test"
    rows: int  # number of rows
    metric: str
    value: float
    low: float  # lower end of its 95 % interval, by resampling the rows
    high: float  # upper end

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f} ({self.low:.4f} to {self.high:.4f}, {self.rows:,} rows, {self.how})"


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`; `--json` prints it."""

    graft: str  # folder of the artefact
    content_id: str
    metrics: dict[str, dict[str, float]]  # score by split and metric
    steps: int  # micro-batches run
    trainable: int  # trained parameters, head included
    seconds: float  # wall time since the process started
    cpu_seconds: float  # CPU time of this process
    costs: dict[str, CostRecord]  # cost of each phase of this process
    resumed: bool  # the run had been interrupted
    stages: tuple[StageRecord, ...]  # stages of the freezing schedule
    climb: tuple[ClimbRecord, ...]  # steps that plan.stages=auto tried
    report: str  # HTML page about the run
    exits: dict[str, Any] | None = None  # early exits of the graft: boundaries, threshold, calibration
    rows_computed: int = 0  # forward passes of a row, whole or in part, that no cache had
    skipped: int = 0  # micro-batches whose loss or gradient was not finite
    known_answers: str = ""  # verdict on the compiler, right-... or wrong-...
    limits: tuple[Limit, ...] = ()  # every limit of config.target, beside what was measured
    estimates: tuple[Estimate, ...] = ()  # the config's metric by split, with what it was measured on
    reading: ReadReport = field(default_factory=ReadReport)  # what was merged, moved, empty or left out among the rows

    def table(self) -> str:
        """Returns the result for people; `--json` and the report hold the rest."""
        lines = [("stored", f"{self.graft} ({self.content_id[:19]}...)")]
        unshown = {(estimate.split, estimate.metric): estimate for estimate in self.estimates}
        for split, scores in self.metrics.items():
            parts = [
                str(unshown.pop((split, metric)))
                if (split, metric) in unshown and unshown[split, metric].value == score
                else f"{metric} {score:.4f}"
                for metric, score in scores.items()
            ]
            lines.append((split, ", ".join(parts)))
        lines += [(estimate.split, str(estimate)) for estimate in unshown.values()]
        for step in self.climb:
            gain = "" if step.gain is None or step.noise is None else f" (gain {step.gain:.4f}, noise {step.noise:.4f})"
            lines.append(("tried", f"{step.name}: {step.score:.4f}{gain}, {'kept' if step.kept else 'not kept'}"))
        lines.append(("trained", f"{self.trainable:,} parameters in {self.steps:,} steps"))
        if self.skipped:
            lines.append(("skipped", f"{self.skipped:,} batches whose loss or gradient was not finite"))
        lines.append(("took", f"{self.seconds:.1f} s, {self.cpu_seconds:.1f} CPU seconds"))
        lines.append(("report", self.report))
        return "\n".join(f"{name:<8} {text}" for name, text in lines)
