"""A climb (`plan.stages=auto`): from the cheapest step to one that is good enough.

    probe      a linear head on the pooled last state: no gradient through the backbone
    probe_all  a linear head on the pooled states of every boundary
    top        the config's methods in the top two blocks, on states cached at the boundary below them
    all        the methods in every block

One forward pass over the train and development rows gives what the first three need. `top` and `all` start from a
head that is a shrunk probe. After its first epoch `top` is given up if it is worse than the probes on the development
rows by more than noise. `all` is given up if it is not better than `top` was after one epoch. The best development
score is kept; at a tie, the cheaper step.

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
from adapters.specs import Probe, above
from backbone.trees import Params, flatten, map_leaves, unflatten
from metering.cost import CostRecord
from metering.window import cpu_seconds, window
from trainers.config import ClimbStep, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.features import open_cache
from trainers.fitting.linear_head import fit_linear, pooled_features, shrunk_head
from trainers.fitting.loop import fit
from trainers.fitting.progress import Progress, rows_of_steps
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.fitting.ways import Fitted, chosen_params
from trainers.freezing.explicit import Stage
from trainers.inputs import Inputs, climbed_blocks
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.logs import Scalars
from trainers.runs.result import ClimbRecord
from trainers.runs.run import Run
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

STEPS: tuple[ClimbStep, ...] = get_args(ClimbStep)
RESAMPLES = 200  # draws of the development rows for a bootstrap
PROBES = 3  # probes fitted to random parts of the train rows
PART = 0.8  # share of the train rows in each of those


@dataclass(frozen=True)
class Candidate:
    """One step that was tried."""

    name: ClimbStep
    model: GraftModel
    params: Params
    score: float  # development score, of the config's metric
    logits: np.ndarray  # logits of the development rows, float32 [N,C]
    cost: CostRecord
    steps: int = 0  # micro-batches run
    progress: Progress = field(default_factory=Progress)
    resumed: bool = False  # its run had been interrupted


@dataclass(frozen=True)
class Features:
    """The result of the first forward pass, for the train and for the development rows."""

    last: tuple[np.ndarray, np.ndarray]  # pooled last states, float32 [N,P]
    every: tuple[np.ndarray, np.ndarray] | None  # pooled states of every boundary [N,L+1,P], where they are stored


def climb(inputs: Inputs, run: Run) -> Fitted:
    """Climbs from step to step, and returns the one that is kept."""
    config, dev = inputs.config, _dev(inputs)
    with run.phase("climb"):
        with window("probe") as cost:
            features = first_pass(inputs, run)
            params, logits, strength = _probe(inputs, features)
        score = _score(config, inputs.probe(), logits, dev)
        kept = Candidate("probe", inputs.probe(), params, score, logits, cost.record())
        records = [ClimbRecord("probe", kept.score, True, kept.cost)]
        spread, resumed = 0.0, False
        for name in STEPS[1 : STEPS.index(config.plan.highest) + 1]:
            if reason := enough(config, kept):
                log.info("%s: %s", kept.name, reason)
                break
            if name == "top":
                spread = probe_spread(inputs, features, strength)
            candidate = _tried(inputs, run, features, name, kept, spread)
            if candidate is None:
                continue
            gain = candidate.score - kept.score
            noise = math.hypot(bootstrap(config, kept.model, dev, kept.logits, candidate.logits), spread)
            verdict = "kept" if gain > 0 else f"{kept.name} kept"
            log.info("%s: development %.4f, gain %+.4f, noise %.4f: %s", name, candidate.score, gain, noise, verdict)
            records.append(ClimbRecord(name, candidate.score, gain > 0, candidate.cost, gain, noise))
            resumed |= candidate.resumed
            if gain > 0:
                kept = candidate
            elif candidate.steps:
                break
    return Fitted(kept.model, kept.params, kept.steps, kept.progress, resumed, tuple(records), kept.logits)


def _tried(
    inputs: Inputs, run: Run, features: Features, name: ClimbStep, kept: Candidate, spread: float
) -> Candidate | None:
    """Tries the step `name`; returns None where it does not apply."""
    if name == "probe_all":
        return _probe_all(inputs, features)
    lowest, boundary = climbed_blocks(inputs.config, inputs.backbone.spec.blocks)
    if name == "all" and lowest == boundary:
        return None
    return _trained(inputs, run, features, name, lowest if name == "all" else boundary, kept, spread)


def first_pass(inputs: Inputs, run: Run) -> Features:
    """Computes the pooled states of both splits; the same pass stores the boundary below the step `top`."""
    train, dev, model = inputs.train, _dev(inputs), inputs.probe()
    store = open_cache(inputs.config.plan, model, inputs.backbone, {}, run)
    if store is not None:
        _, boundary = climbed_blocks(inputs.config, inputs.backbone.spec.blocks)
        trains = inputs.config.plan.highest in ("top", "all")  # only then are the states themselves needed
        for boundaries in ((boundary,), ()) if trains else ((),):
            try:
                store.fill([train, dev], boundaries, pooled=True, show=run.show)
            except MemoryError as error:
                log.warning("%s, plan.cache_gib allows less", error)
                continue
            every = store.pooled(train), store.pooled(dev)
            return Features((every[0][:, -1], every[1][:, -1]), every)
    run.computed.rows += len(train) + len(dev)
    last = [pooled_features(model, inputs.backbone, {}, split, lambda count: None) for split in (train, dev)]
    return Features((last[0], last[1]), None)


def _probe(inputs: Inputs, features: Features) -> tuple[Params, np.ndarray, float]:
    """Returns parameters of the first step, its logits of the development rows, and the strength of its l2."""
    model, (x, dev_x), dev = inputs.probe(), features.last, _dev(inputs)
    fitted = fit_linear(model, x, inputs.train.labels, (dev_x, dev.labels), inputs.config.metric)
    logits = dev_x @ fitted.head["kernel"] + fitted.head["bias"]
    return _with_head(inputs, model, fitted.head), logits, fitted.strength


def _probe_all(inputs: Inputs, features: Features) -> Candidate | None:
    """Returns the second step; None where the pooled states of all boundaries are not stored."""
    if features.every is None:
        return None
    dev, network = _dev(inputs), inputs.backbone.network
    model = GraftModel(network, (Probe(boundaries=()),), inputs.config.head, inputs.data.labels)
    with window("probe_all") as cost:
        x, dev_x = (pooled.reshape(len(pooled), -1) for pooled in features.every)
        fitted = fit_linear(model, x, inputs.train.labels, (dev_x, dev.labels), inputs.config.metric)
        logits = dev_x @ fitted.head["kernel"] + fitted.head["bias"]
    params = _with_head(inputs, model, fitted.head)
    return Candidate("probe_all", model, params, _score(inputs.config, model, logits, dev), logits, cost.record())


def _trained(
    inputs: Inputs, run: Run, features: Features, name: ClimbStep, first: int, kept: Candidate, spread: float
) -> Candidate:
    """Returns a step that is trained by gradient in the blocks from `first` on, from a shrunk probe."""
    backbone, dev = inputs.backbone, _dev(inputs)
    config = replace(inputs.config, plan=replace(inputs.config.plan, stages=(Stage(f"{first}:"),)))
    methods = tuple(above(method, first, backbone.spec.blocks) for method in config.methods)
    model = GraftModel(backbone.network, methods, config.head, inputs.data.labels)
    start = flatten({"head": shrunk_head(inputs.probe(), features.last[0], inputs.train.labels)})
    fresh = flatten(map_leaves(np.asarray, model.init(jax.random.key(config.seed))))
    params = unflatten(fresh | {path: leaf for path, leaf in start.items() if path in fresh})
    difficulty = difficulty_of(config, model, backbone, inputs.train, lambda plain: features.last[0])
    task = GraftTask(
        config, model, backbone, inputs.train, dev, difficulty, lambda leaves: _store(inputs, run, model, leaves)
    )

    def hopeless(progress: Progress) -> bool:
        if len(progress.history) != 1 or progress.best_score is None:
            return False
        if name == "all":
            return progress.best_score <= kept.progress.history[0][config.metric]
        noise = math.hypot(bootstrap(config, kept.model, dev, kept.logits) / 2, spread)
        return progress.best_score < kept.score - noise

    with window(name) as cost, Checkpoints(run.workdir / FOLDER / name, run.identity) as checkpoints:
        state = LoopState(task, params)
        resumed = state.restore(checkpoints)
        fit(task, state, checkpoints, Scalars(run.workdir / name, state.done), stop_if=hopeless, show=run.show)
    run.computed.rows += rows_of_steps(state.progress.stages, config.batch_size)
    params = chosen_params(task, state)
    logits = _logits(inputs, run, model, params, first)
    score = _score(config, model, logits, dev)
    return Candidate(name, model, params, score, logits, cost.record(), state.done, state.progress, resumed)


def _store(inputs: Inputs, run: Run, model: GraftModel, adapter: Params) -> Boundaries | None:
    return open_cache(inputs.config.plan, model, inputs.backbone, adapter, run)


def _logits(inputs: Inputs, run: Run, model: GraftModel, params: Params, first: int) -> np.ndarray:
    """Computes logits of the development rows, from stored states below block `first` where there are some."""
    dev, store = _dev(inputs), _store(inputs, run, model, {}) if first else None
    if store is not None and store.has_states(first, dev):
        return store.logits(params, dev, (first,))
    return Graft(model, params, inputs.backbone, inputs.config.data.max_tokens).logits_of_rows(dev.rows)


def _dev(inputs: Inputs) -> Examples:
    """Returns the development rows, which `trainers.inputs.require_climb` requires."""
    assert inputs.dev is not None
    return inputs.dev


def _with_head(inputs: Inputs, model: GraftModel, head: Params) -> Params:
    """Returns the parameters of a probe: the fitted ones, and the rest of the head at its start."""
    fresh = map_leaves(np.asarray, model.init(jax.random.key(inputs.config.seed)))
    return {"adapter": {}, "head": {**fresh["head"], **head}}


def _score(config: TrainConfig, model: GraftModel, logits: np.ndarray, examples: Examples) -> float:
    return float(gather(model, logits, examples.labels).compute()[config.metric])


def probe_spread(inputs: Inputs, features: Features, strength: float) -> float:
    """Returns the spread of the development score over probes fitted to random parts of the train rows."""
    config, model, dev = inputs.config, inputs.probe(), _dev(inputs)
    (x, dev_x), labels = features.last, inputs.train.labels
    draw, scores = np.random.default_rng(config.seed), []
    for _ in range(PROBES):
        rows = draw.permutation(len(labels))[: max(2, int(PART * len(labels)))]
        head = fit_linear(model, x[rows], labels[rows], None, config.metric, (strength,)).head
        scores.append(_score(config, model, dev_x @ head["kernel"] + head["bias"], dev))
    return float(np.std(scores, ddof=1))


def bootstrap(config: TrainConfig, model: GraftModel, dev: Examples, *logits: np.ndarray) -> float:
    """Returns the spread over resampled development rows of a score, or of the difference of two on the same rows."""
    draw, values = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = draw.integers(0, len(dev), len(dev))
        scores = [float(gather(model, one[rows], dev.labels[rows]).compute()[config.metric]) for one in logits]
        values.append(scores[0] - (scores[1] if len(scores) > 1 else 0.0))
    return float(np.std(values))


def enough(config: TrainConfig, kept: Candidate) -> str:
    """Returns why climbing should end here; "" if it should not."""
    target = config.target
    if target.min_score and kept.score >= target.min_score:
        return f"target.min_score {target.min_score:g} is met"
    if target.max_cpu_seconds and cpu_seconds() >= target.max_cpu_seconds:
        return f"target.max_cpu_seconds {target.max_cpu_seconds:g} are spent"
    return ""
