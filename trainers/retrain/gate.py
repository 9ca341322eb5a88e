"""Candidate against champion on the same held-out rows: PASS, FAIL or NO_EVIDENCE.

The rows are those of `data.gate_fraction`, on which nobody trains or chooses; without them the development rows.
Both sides answer the same rows, so differences are paired: the bootstrap draws rows, not scores. A value that was
not measured is NO_EVIDENCE, and NO_EVIDENCE is never a pass.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from adapters.heads.columns import numbered
from adapters.heads.head import UNLIKELY
from adapters.labels.spelling import spelling
from adapters.model import GraftModel
from metering.window import Cost, platform
from trainers.config import Target
from trainers.config.retrain import Gate
from trainers.data.batches import Examples
from trainers.retrain.budgeted import Budgeted
from trainers.retrain.lineage import Check, GateReport, Verdict
from trainers.runs.targets import Limit, costs_of_predicting, costs_of_training
from trainers.scoring.examine import LENGTHS
from trainers.scoring.metrics import gather

RESAMPLES = 500  # draws of the held-out rows
MIN_OF_LABEL = 10  # held-out rows of a label from which on its own score is checked
NO_BUDGET = Budgeted()


@dataclass(frozen=True)
class PairedLogits:
    """The two sides' logits float32 [N,C] on the same rows, in the candidate's labels."""

    model: GraftModel
    examples: Examples
    candidate: np.ndarray
    champion: np.ndarray | None

    def scores(self, rows: np.ndarray, metric: str) -> list[float]:
        """Returns a metric of the candidate, and of the champion if there is one, on the rows int [n]."""
        labels, loss = self.examples.labels[rows], np.zeros(len(rows))  # no metric of a gate is the loss
        scores = []
        for probabilities, decided in self._decided:
            counts = self.model.head.counts(labels, probabilities[rows], decided[rows], loss, self.model.labels)
            scores.append(float(counts.compute()[metric]))
        return scores

    @cached_property
    def _decided(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns probabilities and decisions of the candidate, and of the champion if there is one."""
        head = self.model.head
        both = [np.asarray(head.probabilities(x)) for x in (self.candidate, self.champion) if x is not None]
        return [(probabilities, head.decide(probabilities)) for probabilities in both]

    def difference(self, rows: np.ndarray, metric: str, confidence: float) -> tuple[float, tuple[float, float]]:
        """Returns candidate minus champion on the rows int [n], and its paired bootstrap's interval (Efron 1979)."""
        draw, values = np.random.default_rng(0), []
        for drawn in (rows, *(rows[draw.integers(0, len(rows), len(rows))] for _ in range(RESAMPLES))):
            candidate, champion = self.scores(drawn, metric)
            values.append(candidate - champion)
        difference, *values = values
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        return difference, (float(low), float(high))


def in_labels(logits: np.ndarray, have: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Returns logits [N,C] of the labels `have` in the order of `labels`, with `UNLIKELY` for those that are missing.

    Names count in their normal form, since grafts of former versions spell some otherwise.
    """
    out = np.full((len(logits), len(labels)), UNLIKELY, np.float32)
    place = numbered(have)
    for i, name in enumerate(labels):
        if (number := place.get(name, place.get(spelling(name)))) is not None:
            out[:, i] = logits[:, number]
    return out


def majority_logits(model: GraftModel, train: Examples, rows: int) -> np.ndarray:
    """Returns logits [N,C] of always naming the most frequent label, or set of labels, of the train rows."""
    answer = model.head.column.majority(train.labels, len(model.labels))
    return np.repeat(model.head.sure_logits(answer)[None], rows, axis=0)


def slices_of(sides: PairedLogits, old: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns the row numbers of each slice; `old` bool [N] says which rows the champion's data held."""
    examples = sides.examples
    chosen: dict[str, np.ndarray] = {"all rows": np.ones(len(examples), bool)}
    if old is not None:
        chosen |= {"old rows": old, "new rows": ~old}
    for low, high in pairwise((0, *LENGTHS, max(examples.lengths))):
        chosen[f"{low + 1} to {high} tokens"] = (examples.buckets > low) & (examples.buckets <= high)
    for i, name in enumerate(sides.model.labels):
        chosen[f"label {name}"] = sides.model.head.column.carries(examples.labels, [i])
    return {name: np.flatnonzero(rows) for name, rows in chosen.items()}


def judge(
    gate: Gate,
    target: Target,
    metric: str,
    sides: PairedLogits,
    *,
    champion: int | None,
    split: str,
    old: np.ndarray | None,
    train: Cost | None,
    peak_bytes: Callable[[], int | None],
    latency_ms: Callable[[], float],
    unseen: Mapping[str, bool] = MappingProxyType({}),
    majority: PairedLogits | None = None,
    budgeted: Budgeted = NO_BUDGET,
) -> GateReport:
    """Judges by every rule of the gate, the target and the budget; `target.min_score` is a limit on `metric`.

    `train` is the cost of the candidate's training. For the first version `sides.champion` is the majority label.
    `unseen` are the labels of held-out rows that the candidate's training lacks, and whether the champion knows each.
    `majority` sets the candidate beside the majority label, which a successor has to beat too: where labels were
    shuffled, candidate and champion are equally lost.
    """
    slices = slices_of(sides, old)
    checks: list[Check] = []
    if champion is not None:
        checks.append(_not_worse(gate, sides, "all rows", slices["all rows"], gate.metric, gate.tolerance))
        if old is not None:
            checks.append(_not_worse(gate, sides, "old rows", slices["old rows"], gate.metric, gate.forgetting))
        checks += _labels_kept(gate, sides, slices)
        if majority is not None:
            checks.append(_beats(gate, majority, slices["all rows"], doubt=False))
    elif gate.first == "beats_majority":
        checks.append(_beats(gate, sides, slices["all rows"]))
    checks += _bounds(gate, sides, slices, compared=champion is not None)
    if target.min_score:
        name = budgeted.shown("min_score")
        checks.append(_at_least(gate, sides, name, slices["all rows"], metric, target.min_score))
    checks += [_at_least(gate, sides, f.name, slices["all rows"], f.metric, f.value) for f in budgeted.floors]
    peak = peak_bytes() if target.max_memory_mb else None
    limits = [
        *costs_of_training(target, train.cpu_seconds if train else None, train.joules if train else None),
        *costs_of_predicting(target, peak, latency_ms, platform()),
    ]
    checks += [_limit_check(limit) for limit in (*map(budgeted.sourced, limits), *budgeted.further())]
    checks += [_without_evidence(name, len(slices[f"label {name}"]), known) for name, known in unseen.items()]
    if not any(check.decides for check in checks):
        checks.append(Check("first", "NO_EVIDENCE", None, 0.0, 0, "gate.first=bounds, and nothing is asked for"))
    verdicts = {check.verdict for check in checks if check.decides}
    verdict: Verdict = "FAIL" if "FAIL" in verdicts else "NO_EVIDENCE" if "NO_EVIDENCE" in verdicts else "PASS"
    model, labels = sides.model, sides.examples.labels
    return GateReport(
        verdict=verdict,
        split=split,
        champion=champion,
        rows={name: len(rows) for name, rows in slices.items()},
        candidate=gather(model, sides.candidate, labels).compute(),
        champion_metrics={} if sides.champion is None else _metrics_of(model, sides.champion, labels),
        checks=tuple(checks),
        platform=platform(),
    )


def _without_evidence(label: str, rows: int, champion_knows: bool) -> Check:
    """Returns the check of a label that the held-out rows have and the candidate's training lacks.

    Nobody can learn a label from held-out rows alone, so it decides only where the champion would be lost for it.
    """
    reason = f"no train row has it, so the candidate cannot answer it; {rows} held-out rows count as wrong"
    if champion_knows:
        reason += "; the live version knows it: give training rows of it, or promote by hand"
    return Check(f"label {label}", "NO_EVIDENCE", None, 0.0, rows, reason, decides=champion_knows)


def _metrics_of(model: GraftModel, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the metrics of answers; no loss where some have no probability, as those of the majority label."""
    metrics = gather(model, logits, labels).compute()
    return {name: value for name, value in metrics.items() if name != "loss" or np.abs(logits).max() < -UNLIKELY}


def _few(gate: Gate, name: str, threshold: float, rows: np.ndarray) -> Check | None:
    """Returns the check of a slice with too few rows; None where there are enough."""
    if len(rows) >= gate.min_rows:
        return None
    reason = f"{len(rows)} held-out rows, gate.min_rows asks for {gate.min_rows}"
    return Check(name, "NO_EVIDENCE", None, threshold, len(rows), reason)


def _not_worse(gate: Gate, sides: PairedLogits, place: str, rows: np.ndarray, metric: str, tolerance: float) -> Check:
    """Checks that the candidate lies at most `tolerance` below the champion."""
    name = f"{metric} against the champion, {place}"
    if few := _few(gate, name, -tolerance, rows):
        return few
    difference, interval = sides.difference(rows, metric, gate.confidence)
    reason = (
        f"difference {difference:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f}), at least {-tolerance:+.4f} asked"
    )
    verdict: Verdict = "FAIL" if difference < -tolerance else "PASS" if interval[0] >= -tolerance else "NO_EVIDENCE"
    return Check(name, verdict, difference, -tolerance, len(rows), reason, interval)


def _beats(gate: Gate, sides: PairedLogits, rows: np.ndarray, *, doubt: bool = True) -> Check:
    """Checks that a version is better than the majority label; a first version beyond doubt."""
    name = f"{gate.metric} against the majority label"
    if few := _few(gate, name, 0.0, rows):
        return few
    gain, interval = sides.difference(rows, gate.metric, gate.confidence)
    reason = f"gain {gain:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f}), above 0 asked"
    enough = interval[0] > 0 if doubt else gain > 0
    verdict: Verdict = "PASS" if enough else "FAIL" if gain <= 0 else "NO_EVIDENCE"
    return Check(name, verdict, gain, 0.0, len(rows), reason, interval)


def _labels_kept(gate: Gate, sides: PairedLogits, slices: Mapping[str, np.ndarray]) -> Iterable[Check]:
    """Yields a check of each label that the candidate answers much worse than the champion, beyond doubt."""
    for name in sides.model.labels if gate.label_drop < 1 else ():
        rows = slices[f"label {name}"]
        if len(rows) < MIN_OF_LABEL:
            continue
        candidate, champion = sides.scores(rows, gate.metric)
        if candidate - champion >= -gate.label_drop:
            continue
        difference, interval = sides.difference(rows, gate.metric, gate.confidence)
        if interval[1] < 0:
            reason = (
                f"difference {difference:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f}) on the rows of label {name}, "
                f"gate.label_drop allows {-gate.label_drop:+.4f}"
            )
            yield Check(
                f"{gate.metric} of label {name}", "FAIL", difference, -gate.label_drop, len(rows), reason, interval
            )


def _at_least(gate: Gate, sides: PairedLogits, name: str, rows: np.ndarray, metric: str, threshold: float) -> Check:
    """Checks that the candidate's metric reaches a threshold."""
    if few := _few(gate, name, threshold, rows):
        return few
    score = sides.scores(rows, metric)[0]
    reason = f"{metric} {score:.4f}, at least {threshold:g} asked"
    return Check(name, "PASS" if score >= threshold else "FAIL", score, threshold, len(rows), reason)


def _bounds(gate: Gate, sides: PairedLogits, slices: Mapping[str, np.ndarray], *, compared: bool) -> Iterable[Check]:
    for bound in gate.bounds:
        names = [name for name in slices if fnmatch.fnmatchcase(name, bound.slices)]
        if not names:
            reason = f"no slice matches; there are {', '.join(list(slices)[:8])}"
            yield Check(f"{bound.metric}, {bound.slices}", "NO_EVIDENCE", None, bound.at_least, 0, reason)
        for name in names:
            if bound.at_least:
                yield _at_least(gate, sides, f"{bound.metric}, {name}", slices[name], bound.metric, bound.at_least)
            if bound.max_drop is not None and compared:
                yield _not_worse(gate, sides, name, slices[name], bound.metric, bound.max_drop)


def _limit_check(limit: Limit) -> Check:
    """Returns the check of a limit of the target; a figure that nobody has is no evidence."""
    verdict: Verdict = "NO_EVIDENCE" if limit.met is None else "PASS" if limit.met else "FAIL"
    return Check(limit.name, verdict, limit.value, limit.limit, 0, str(limit))
