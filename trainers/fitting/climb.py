"""A climb (`plan.stages=auto`): from the cheapest step to one that is good enough.

    probe      a linear head on the pooled last state: no gradient through the backbone
    probe_all  a linear head on the pooled states of several boundaries
    top        the config's methods in the top two blocks, on states cached at the boundary below them
    all        the methods in every block

One forward pass over the train and development rows gives what the first three need. The probes are compared on rows
that they have not seen, and the best is fitted to all rows (`trainers.fitting.head_comparison`). A trained step needs
development rows, and a prospect of a gain that these can show (`trainers.fitting.prospect`). `top` and `all` start from
a head that is a shrunk probe. After its first epoch `top` is given up if it is worse than the probes on the development
rows by more than noise. `all` is given up if it is not better than `top` was after one epoch. The best development
score is kept; at a tie, the cheaper step. The development rows of a trained step stay held out.

noise = hypot(b / 2, s). b is the bootstrap spread of the probe's development score, halved because both steps are
scored on the same rows. s is the spread over three probes, each fitted to a random 80 % of the train rows. The report
replaces b / 2 by the paired bootstrap of the two finished steps.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import get_args

import jax
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import above
from backbone.trees import Params, flatten, map_leaves, unflatten
from metering.cost import CostRecord
from metering.window import Cost, cpu_seconds, window
from trainers.config import ClimbStep, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.features import open_cache
from trainers.fitting.head_comparison import Comparison, LabelledStates, on_last, on_several
from trainers.fitting.linear_head import fit_linear, shrunk_head
from trainers.fitting.loop import fit
from trainers.fitting.probes import final_probe, judged, states_of
from trainers.fitting.progress import Progress, rows_of_steps
from trainers.fitting.prospect import STEPS_OF_A_PASS, Prospect, expected_gain, visible
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.fitting.ways import Fitted, chosen_params
from trainers.freezing.explicit import Stage
from trainers.inputs import Inputs, climbed_blocks
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.logs import Scalars
from trainers.runs.result import ClimbRecord
from trainers.runs.run import Run
from trainers.scoring.intervals import resampled
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

STEPS: tuple[ClimbStep, ...] = get_args(ClimbStep)
PROBES = 3  # probes fitted to random parts of the train rows
PART = 0.8  # share of the train rows in each of those
STRENGTH = 1e-2  # l2 of those


@dataclass(frozen=True)
class Candidate:
    """One step that was tried."""

    name: ClimbStep
    model: GraftModel
    score: float  # score of the config's metric on the rows that steps are compared on (`trainers.fitting.probes`)
    logits: np.ndarray  # logits of those rows, float32 [N,C]
    cost: CostRecord
    params: Params = field(default_factory=dict)  # empty of a probe, which is fitted to all rows once it is kept
    steps: int = 0  # micro-batches run
    progress: Progress = field(default_factory=Progress)
    resumed: bool = False  # its run had been interrupted


def climb(inputs: Inputs, run: Run) -> Fitted:
    """Climbs from step to step, and returns the one that is kept."""
    with run.phase("climb"):
        with window("probe") as cost:
            rows = states_of(inputs, run)
            probes = on_last(inputs.probe(), rows)
        kept = _probe(inputs, rows, "probe", probes, cost)
        records = [ClimbRecord("probe", kept.score, True, kept.cost)]
        if inputs.config.plan.highest != "probe" and not _ended(inputs.config, kept):
            with window("probe_all") as cost:
                several = on_several(inputs.probe(), rows, probes)
            probes, candidate = several.before(probes), _probe(inputs, rows, "probe_all", several, cost)
            records.append(_record(inputs, rows, candidate, kept, better=probes.best < len(several.options)))
            kept = candidate if records[-1].kept else kept
            kept = _trained_steps(inputs, run, rows, kept, records)
        if kept.steps:
            return Fitted(kept.model, kept.params, kept.steps, kept.progress, kept.resumed, tuple(records), kept.logits)
        final = final_probe(inputs, rows, probes)
        return Fitted(
            final.model, final.params, 0, kept.progress, kept.resumed, tuple(records), final.dev_logits, final.unseen
        )


def _trained_steps(
    inputs: Inputs, run: Run, rows: LabelledStates, kept: Candidate, records: list[ClimbRecord]
) -> Candidate:
    """Tries the steps that are trained by gradient, adds their records, and returns the step that is kept."""
    config, spread, resumed = inputs.config, 0.0, False
    lowest, boundary = climbed_blocks(config, inputs.backbone.spec.blocks)
    for name in STEPS[2 : STEPS.index(config.plan.highest) + 1]:
        if _ended(config, kept) or (name == "top" and not _promising(inputs, run, kept, records[0].cost)):
            break
        if name == "all" and lowest == boundary:
            continue
        if name == "top":
            spread = probe_spread(inputs, rows)
        candidate = _trained(inputs, run, rows, name, lowest if name == "all" else boundary, kept, spread)
        gain = candidate.score - kept.score
        records.append(_record(inputs, rows, candidate, kept, better=gain > 0, spread=spread))
        resumed |= candidate.resumed
        if gain > 0:
            kept = candidate
        elif candidate.steps:
            break
    return replace(kept, resumed=resumed)


def _record(
    inputs: Inputs, rows: LabelledStates, candidate: Candidate, kept: Candidate, *, better: bool, spread: float = 0.0
) -> ClimbRecord:
    """Returns the record of a step that was tried after `kept`, and logs it."""
    labels, gain = rows.labels[judged(inputs, rows)], candidate.score - kept.score
    noise = math.hypot(bootstrap(inputs.config, kept.model, labels, kept.logits, candidate.logits), spread)
    verdict = "kept" if better else f"{kept.name} kept"
    log.info("%s: score %.4f, gain %+.4f, noise %.4f: %s", candidate.name, candidate.score, gain, noise, verdict)
    return ClimbRecord(candidate.name, candidate.score, better, candidate.cost, gain, noise)


def _probe(inputs: Inputs, rows: LabelledStates, name: ClimbStep, comparison: Comparison, cost: Cost) -> Candidate:
    """Returns the best option of a comparison as a step."""
    chosen = judged(inputs, rows)
    logits = comparison.logits[comparison.best][chosen]
    score = _score(inputs.config, inputs.probe(), logits, rows.labels[chosen]) if chosen.any() else 0.0
    return Candidate(name, inputs.probe(), score, logits, cost.record())


def _promising(inputs: Inputs, run: Run, kept: Candidate, first: CostRecord) -> bool:
    """Returns whether a trained step should be tried, and logs why."""
    config, dev = inputs.config, inputs.dev
    if dev is None:
        log.info("top: no development rows that could judge it: not tried; set data.dev or data.dev_fraction")
        return False
    score = float(_score(config, kept.model, kept.logits, dev.labels))
    noise = visible(bootstrap(config, kept.model, dev.labels, kept.logits), len(dev))
    prospect = Prospect(
        "top", expected_gain(score, len(inputs.train), len(inputs.data.labels)), noise, _price(inputs, run, first)
    )
    limit = config.target.max_cpu_seconds
    affordable = not (limit and prospect.cpu_seconds and cpu_seconds() + prospect.cpu_seconds > limit)
    tried = affordable and (prospect.pays or config.plan.trials == "all")
    too_dear = "" if affordable else f", beyond target.max_cpu_seconds {limit:g}"
    log.info("%s%s: %s", prospect, too_dear, "tried" if tried else "not tried")
    return tried


def _price(inputs: Inputs, run: Run, first: CostRecord) -> float | None:
    """Returns the CPU seconds that `top` may take, from those of the first pass; None where the cache had its rows."""
    if run.computed.rows < len(inputs.train) / 2:
        return None
    return STEPS_OF_A_PASS * inputs.config.epochs * len(inputs.train) / run.computed.rows * first.cpu_seconds


def _trained(
    inputs: Inputs, run: Run, rows: LabelledStates, name: ClimbStep, first: int, kept: Candidate, spread: float
) -> Candidate:
    """Returns a step that is trained by gradient in the blocks from `first` on, from a shrunk probe."""
    backbone, dev = inputs.backbone, _dev(inputs)
    config = replace(inputs.config, plan=replace(inputs.config.plan, stages=(Stage(f"{first}:"),)))
    methods = tuple(above(method, first, backbone.spec.blocks) for method in config.methods)
    model = GraftModel(backbone.network, methods, config.head, inputs.data.labels)
    last = rows.pooled[~rows.is_dev, -1]
    start = flatten({"head": shrunk_head(inputs.probe(), last, inputs.train.labels)})
    fresh = flatten(map_leaves(np.asarray, model.init(jax.random.key(config.seed))))
    params = unflatten(fresh | {path: leaf for path, leaf in start.items() if path in fresh})
    difficulty = difficulty_of(config, model, backbone, inputs.train, lambda plain: last)
    task = GraftTask(
        config, model, backbone, inputs.train, dev, difficulty, lambda leaves: _store(inputs, run, model, leaves)
    )

    def hopeless(progress: Progress) -> bool:
        if len(progress.history) != 1 or progress.best_score is None:
            return False
        if name == "all":
            return progress.best_score <= kept.progress.history[0][config.metric]
        noise = math.hypot(bootstrap(config, kept.model, dev.labels, kept.logits) / 2, spread)
        return progress.best_score < kept.score - noise

    with window(name) as cost, Checkpoints(run.workdir / FOLDER / name, run.identity) as checkpoints:
        task = task.in_folder(run.workdir / name)
        state = LoopState(task, params)
        resumed = state.restore(checkpoints)
        fit(task, state, checkpoints, Scalars(run.workdir / name, state.done), stop_if=hopeless, show=run.show)
    run.computed.rows += rows_of_steps(state.progress.stages, config.batch_size)
    params = chosen_params(task, state)
    logits = _logits(inputs, run, model, params, first)
    score = _score(config, model, logits, dev.labels)
    return Candidate(name, model, score, logits, cost.record(), params, state.done, state.progress, resumed)


def _store(inputs: Inputs, run: Run, model: GraftModel, adapter: Params) -> Boundaries | None:
    return open_cache(inputs.config.plan, model, inputs.backbone, adapter, run)


def _logits(inputs: Inputs, run: Run, model: GraftModel, params: Params, first: int) -> np.ndarray:
    """Computes logits of the development rows, from stored states below block `first` where there are some."""
    dev, store = _dev(inputs), _store(inputs, run, model, {}) if first else None
    if store is not None and store.has_states(first, dev):
        return store.logits(params, dev, (first,))
    return Graft(model, params, inputs.backbone, inputs.config.data.max_tokens).logits_of_rows(dev.rows)


def _dev(inputs: Inputs) -> Examples:
    """Returns the development rows, without which no step is trained."""
    assert inputs.dev is not None
    return inputs.dev


def _score(config: TrainConfig, model: GraftModel, logits: np.ndarray, labels: np.ndarray) -> float:
    return float(gather(model, logits, labels).compute()[config.metric])


def probe_spread(inputs: Inputs, rows: LabelledStates) -> float:
    """Returns the spread of the development score over probes fitted to random parts of the train rows."""
    config, model, last = inputs.config, inputs.probe(), rows.pooled[:, -1]
    x, dev_x = last[~rows.is_dev], last[rows.is_dev]
    labels, dev_labels = rows.labels[~rows.is_dev], rows.labels[rows.is_dev]
    draw, scores = np.random.default_rng(config.seed), []
    for _ in range(PROBES):
        part = draw.permutation(len(labels))[: max(2, int(PART * len(labels)))]
        head = fit_linear(model, x[part], labels[part], None, config.metric, (STRENGTH,)).head
        scores.append(_score(config, model, dev_x @ head["kernel"] + head["bias"], dev_labels))
    return float(np.std(scores, ddof=1))


def bootstrap(config: TrainConfig, model: GraftModel, labels: np.ndarray, *logits: np.ndarray) -> float:
    """Returns the spread over resampled rows of a score, or of the difference of two on the same rows."""
    scores = [resampled(model, one, labels, config.metric) for one in logits]
    return float(np.std(scores[0] - (scores[1] if len(scores) > 1 else 0.0)))


def _ended(config: TrainConfig, kept: Candidate) -> bool:
    """Returns whether climbing should end at `kept`, and logs why."""
    if reason := enough(config, kept):
        log.info("%s: %s", kept.name, reason)
    return bool(reason)


def enough(config: TrainConfig, kept: Candidate) -> str:
    """Returns why climbing should end here; "" if it should not."""
    target = config.target
    if target.min_score and kept.score >= target.min_score:
        return f"target.min_score {target.min_score:g} is met"
    if target.max_cpu_seconds and cpu_seconds() >= target.max_cpu_seconds:
        return f"target.max_cpu_seconds {target.max_cpu_seconds:g} are spent"
    return ""
