"""The plan `auto`: climb from the cheapest rung while climbing pays.

    probe      a linear head on the pooled last state: no gradient through the backbone
    probe_all  a linear head on the pooled states of every boundary
    top        the config's methods in the top two blocks, on states cached at the boundary below them
    all        the methods in every block

One forward pass over the train and development rows gives what the first three need. `top` and `all` start from
a head that is a shrunk probe. After its first epoch `top`, which starts behind, is given up if it is worse than the
probes on the development rows by more than noise, and `all` if it is not better than `top` was after one epoch.
Of what was tried the best development score is kept, at a tie the cheaper rung. Noise is half the bootstrap spread
of the probes' score, since the rows are the same, and the spread over three probes fitted to random parts of the
train rows, together (root of squares); what is reported is the paired bootstrap of the finished rung instead of half.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Ladder, Probe, above, block_range
from backbone.errors import InputError
from backbone.home import boundaries_folder
from backbone.storage import Backbone
from backbone.trees import Params, flatten, map_leaves, unflatten
from metering.window import cpu_seconds, window
from trainers.config import LadderRung, Plan, Stage, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries, ComputedRows
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.linear_head import fit_linear, pooled_features, shrunk_head
from trainers.fitting.loop import Progress, Task, fit, rows_of_steps
from trainers.runs.checkpoints import FOLDER, Checkpoints
from trainers.runs.logs import Scalars
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

LADDER: tuple[LadderRung, ...] = get_args(LadderRung)
TOP_BLOCKS = 2
RESAMPLES = 200  # of the development rows
PROBES = 3  # fitted to random parts of the train rows
PART = 0.8  # of the train rows in each of those


@dataclass
class Rung:
    """One rung that was tried."""

    name: str
    model: GraftModel
    params: Params
    score: float  # on the development rows
    logits: np.ndarray  # of the development rows
    steps: int
    progress: Progress
    cost: dict[str, Any]


@dataclass(frozen=True)
class Climbed:
    """The rung that was kept, and how it came to be."""

    rung: Rung
    tried: list[dict[str, Any]]  # name, score, gain, noise, kept and cost of each rung
    resumed: bool


class _Climb:
    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        backbone: Backbone,
        labels: tuple[str, ...],
        identity: Mapping[str, str],
        show: bool,
        tally: ComputedRows,
    ):
        self.identity, self.tally = identity, tally
        self.config, self.workdir, self.backbone, self.labels, self.show = config, workdir, backbone, labels, show
        blocks = backbone.spec.blocks
        named = [getattr(spec, "blocks", "") for spec in config.methods]
        allowed = [block_range(blocks_of, blocks) for blocks_of in named]
        for name, chosen in zip(named, allowed, strict=True):
            if chosen.stop != blocks:
                raise InputError(f"adapter.blocks: {name!r} leaves out the top block; auto grafts downward from it")
        self.first = min(chosen.start for chosen in allowed)
        self.boundary = max(self.first, blocks - TOP_BLOCKS)
        self.plain = GraftModel(backbone.network, (Probe(),), config.head, labels)
        self.resumed = False
        self.strength = 0.0  # l2 of the first rung
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # pooled last states [N,P] of train and dev
        self._pooled: tuple[np.ndarray, np.ndarray] | None = None  # of every boundary [N,L+1,P], where they are kept

    def store(self, model: GraftModel, adapter: Params) -> Boundaries | None:
        plan = self.config.plan
        if plan.cache == "none":
            return None
        most = int(plan.cache_gib * 2**30)
        return Boundaries(model, self.backbone, adapter, boundaries_folder(), plan.cache, most, self.tally)

    def score(self, logits: np.ndarray, examples: Examples) -> float:
        return float(gather(self.plain, logits, examples.labels).compute()[self.config.metric])

    def probe(self, train: Examples, dev: Examples) -> Rung:
        """The first rung."""
        with window("probe") as cost:
            features = self.features(train, dev)
            fitted = fit_linear(self.plain, features[0], train.labels, (features[1], dev.labels), self.config.metric)
            logits = features[1] @ fitted.head["kernel"] + fitted.head["bias"]
        self.strength = fitted.strength
        params = self.with_head(self.plain, fitted.head)
        return Rung("probe", self.plain, params, self.score(logits, dev), logits, 0, Progress(), cost.asdict())

    def probe_all(self, train: Examples, dev: Examples) -> Rung | None:
        """The second rung; None where the pooled states of all boundaries are not kept."""
        if self._pooled is None:
            return None
        model = GraftModel(self.backbone.network, (Probe(boundaries=()),), self.config.head, self.labels)
        with window("probe_all") as cost:
            x, dev_x = (pooled.reshape(len(pooled), -1) for pooled in self._pooled)
            fitted = fit_linear(model, x, train.labels, (dev_x, dev.labels), self.config.metric)
            logits = dev_x @ fitted.head["kernel"] + fitted.head["bias"]
        params = self.with_head(model, fitted.head)
        return Rung("probe_all", model, params, self.score(logits, dev), logits, 0, Progress(), cost.asdict())

    def with_head(self, model: GraftModel, head: Params) -> Params:
        """Parameters of a probe: what is fitted, and the rest of the head at its start."""
        fresh = map_leaves(np.asarray, model.init(jax.random.key(self.config.seed)))
        return {"adapter": {}, "head": {**fresh["head"], **head}}

    def spread(self, train: Examples, dev: Examples) -> float:
        """Spread of the development score over probes fitted to random parts of the train rows."""
        features = self.features(train, dev)
        draw, scores = np.random.default_rng(self.config.seed), []
        for _ in range(PROBES):
            rows = draw.permutation(len(train))[: max(2, int(PART * len(train)))]
            part = fit_linear(
                self.plain, features[0][rows], train.labels[rows], None, self.config.metric, (self.strength,)
            )
            scores.append(self.score(features[1] @ part.head["kernel"] + part.head["bias"], dev))
        return float(np.std(scores, ddof=1))

    def features(self, train: Examples, dev: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Pooled last states of both splits, computed once; the same pass stores the boundary of the next rung."""
        if self._last is None:
            self._last = self._features(train, dev)
        return self._last

    def _features(self, train: Examples, dev: Examples) -> tuple[np.ndarray, np.ndarray]:
        store = self.store(self.plain, {})
        if store is not None:
            climbs = self.config.plan.highest in ("top", "all")  # only then are the states themselves needed
            for boundaries in ((self.boundary,), ()) if climbs else ((),):
                try:
                    store.fill([train, dev], boundaries, pooled=True, show=self.show)
                    self._pooled = store.pooled(train), store.pooled(dev)
                    return self._pooled[0][:, -1], self._pooled[1][:, -1]
                except MemoryError as error:
                    log.warning("%s, plan.cache_gib allows less", error)
        nothing: Callable[[int], object] = lambda count: None  # noqa: E731
        self.tally.rows += len(train) + len(dev)
        return (
            pooled_features(self.plain, self.backbone, {}, train, nothing),
            pooled_features(self.plain, self.backbone, {}, dev, nothing),
        )

    def train(
        self, name: str, plan: Plan, first: int, start: Params, below: Rung, spread: float, data: dict[str, Examples]
    ) -> Rung:
        """A rung trained by gradient, from `start` where its tree has the same leaves."""
        methods = tuple(above(spec, first, self.backbone.spec.blocks) for spec in self.config.methods)
        model = GraftModel(self.backbone.network, methods, self.config.head, self.labels)
        fresh = flatten(map_leaves(np.asarray, model.init(jax.random.key(self.config.seed))))
        params = unflatten(fresh | {path: leaf for path, leaf in flatten(start).items() if path in fresh})
        config = replace(self.config, plan=plan)
        features = self.features(data["train"], data["dev"])[0]
        difficulty = difficulty_of(config, model, self.backbone, data["train"], lambda plain: features)
        task = Task(config, model, self.backbone, data["train"], data["dev"], difficulty)

        def hopeless(progress: Progress) -> bool:
            if len(progress.history) != 1:
                return False
            if name == "all":
                return progress.best_score <= below.progress.history[0][config.metric]
            return progress.best_score < below.score - math.hypot(self.bootstrap(data["dev"], below.logits) / 2, spread)

        folder = self.workdir / FOLDER / name
        with window(name) as cost, Checkpoints(folder, self.identity) as checkpoints:
            self.resumed |= checkpoints.notes() is not None
            done = fit(
                task,
                params,
                checkpoints,
                lambda step: Scalars(self.workdir / name, step),
                make_cache=lambda leaves: self.store(model, leaves),
                stop_if=hopeless,
                show=self.show,
            )
        self.tally.rows += rows_of_steps(config, done.progress)
        logits = self.logits(model, done.params, first, data["dev"])
        score = self.score(logits, data["dev"])
        return Rung(name, model, done.params, score, logits, done.steps, done.progress, cost.asdict())

    def logits(self, model: GraftModel, params: Params, first: int, dev: Examples) -> np.ndarray:
        """Logits of the development rows, from the boundary below block `first` where its states are stored."""
        store = self.store(model, {}) if first else None
        if store is not None and store.has_states(first, dev):
            return store.logits(params, dev, (first,))
        return Graft(model, params, self.backbone, self.config.data.max_tokens).logits_of_rows(dev.rows)

    def next(self, name: str, kept: Rung, spread: float, train: Examples, dev: Examples) -> Rung | None:
        """The rung `name`, tried; None where it does not apply."""
        plan, data = self.config.plan, {"train": train, "dev": dev}
        if name == "probe_all":
            return self.probe_all(train, dev)
        if name == "all" and self.first == self.boundary:
            return None
        first = self.boundary if name == "top" else self.first
        start = {"head": shrunk_head(self.plain, self.features(train, dev)[0], train.labels)}
        stages = (Stage(f"{first}:"),)
        return self.train(name, replace(plan, stages=stages), first, start, kept, spread, data)

    def bootstrap(self, dev: Examples, *logits: np.ndarray) -> float:
        """Spread over resampled development rows of a score, or of the difference of two on the same rows."""
        draw, found = np.random.default_rng(0), []
        for _ in range(RESAMPLES):
            rows = draw.integers(0, len(dev), len(dev))
            scores = [gather(self.plain, one[rows], dev.labels[rows]).compute()[self.config.metric] for one in logits]
            found.append(scores[0] - (scores[1] if len(scores) > 1 else 0.0))
        return float(np.std(found))


def require_dev_rows(splits: Mapping[str, Examples]) -> None:
    """Raises InputError where there is nothing to decide on."""
    if "dev" not in splits:
        raise InputError("plan.stages: auto decides on development rows; set data.dev, or data.dev_fraction above 0")


def climbs(config: TrainConfig) -> bool:
    """Whether a run of the config climbs: a probe or a ladder, which never differentiates the backbone, is one rung."""
    return config.plan.schedule[0] == "auto" and not isinstance(config.adapter, (Probe, Ladder))


def climb(
    config: TrainConfig,
    workdir: Path,
    backbone: Backbone,
    labels: tuple[str, ...],
    splits: dict[str, Examples],
    identity: Mapping[str, str],
    show: bool,
    tally: ComputedRows,
) -> Climbed:
    """The rung that `auto` settles on, with what it computed in `tally`; raises InputError without development rows."""
    require_dev_rows(splits)
    train, dev = splits["train"], splits["dev"]
    run = _Climb(config, workdir, backbone, labels, identity, show, tally)
    kept = run.probe(train, dev)
    tried: list[dict[str, Any]] = [{"name": "probe", "score": kept.score, "kept": True, "cost": kept.cost}]
    spread = 0.0
    for name in LADDER[1 : LADDER.index(config.plan.highest) + 1]:
        if reason := enough(config, kept):
            log.info("%s: %s", kept.name, reason)
            break
        if name == "top":
            spread = run.spread(train, dev)
        rung = run.next(name, kept, spread, train, dev)
        if rung is None:
            continue
        gain, noise = rung.score - kept.score, math.hypot(run.bootstrap(dev, kept.logits, rung.logits), spread)
        better = gain > 0
        verdict = "kept" if better else f"{kept.name} kept"
        log.info("%s: development %.4f, gain %+.4f, noise %.4f: %s", name, rung.score, gain, noise, verdict)
        entry = {"name": name, "score": rung.score, "gain": gain, "noise": noise, "kept": better, "cost": rung.cost}
        tried.append(entry)
        if better:
            kept = rung
        elif rung.steps:
            break
    return Climbed(kept, tried, run.resumed)


def enough(config: TrainConfig, kept: Rung) -> str:
    """Why climbing should end here; empty if it should not."""
    target = config.target
    if target.min_score and kept.score >= target.min_score:
        return f"target.min_score {target.min_score:g} is met"
    if target.max_cpu_seconds and cpu_seconds() >= target.max_cpu_seconds:
        return f"target.max_cpu_seconds {target.max_cpu_seconds:g} are spent"
    return ""
