"""The verb `train`: a config to a stored graft.

    result = train(load_config("configs/trec6.py"), Path("runs/trec6"))

Reads top to bottom: data, backbone, model, where the head starts, the loop, the artefact, the report.
A work folder holds `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `graft/` and
`result.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artifact import save_graft
from adapters.exits import Exits
from adapters.graft import Graft
from adapters.manifest import Training
from adapters.model import GraftModel
from adapters.scope import Scope
from adapters.specs import Ladder, Probe, above
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.records import digest, encode
from backbone.storage import Backbone, load_backbone
from backbone.trees import Params, count, map_leaves
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.auto import climb
from trainers.batches import Examples
from trainers.boundaries import Boundaries, Tally
from trainers.caches import boundaries_folder
from trainers.checkpoints import Checkpoints
from trainers.config import TrainConfig
from trainers.difficulty import difficulty_of
from trainers.examine import examine
from trainers.examples import TaskData, load_data
from trainers.exits import fitted_exits, put_aside, require_unseen
from trainers.experiment import versions
from trainers.logs import Scalars, bar
from trainers.loop import Fitted, MakeCache, Progress, Task, fit
from trainers.probe import (
    SHRUNK,
    FittedProbe,
    fit_linear,
    fitted_labels,
    pooled_features,
    shrunk_head,
    vector_model,
)
from trainers.report import write_report
from trainers.scope import bare_model, fitted_scope
from trainers.variants import require_dev, validated
from trainers.warm import Parent, Start, grown, head_features, read_parent
from trainers.workdir import RESULT, claim, stored_result, unclaimed_on_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What `train` did; `--json` prints it."""

    graft: str  # folder of the artefact
    content_id: str
    metrics: dict[str, dict[str, float]]  # by split, by metric
    steps: int  # micro-batches
    trainable: int  # parameters, head included
    seconds: float  # wall time since the process started
    cpu_seconds: float  # of this process
    costs: dict[str, Any]  # of each phase of this process
    resumed: bool
    stages: list[dict[str, Any]]  # of the freeze plan: boundary, steps, cost
    rungs: list[dict[str, Any]]  # tried by plan.stages=auto: name, score, gain, noise, kept, cost
    report: str  # HTML page about the run
    exits: dict[str, Any] | None = None  # of the graft: boundaries, threshold, what they were calibrated on
    rows_computed: int = 0  # forward passes of a row, whole or in part, that no cache had


def train(
    config: TrainConfig, workdir: Path, *, resume: bool = False, start: Start | None = None, show: bool = False
) -> TrainResult:
    """Trains and stores a graft in `workdir`; raises InputError for bad data, config or backbone.

    `start` names a graft to begin from: its methods are trained on, in the stages of the plan.
    With `resume` a run that was interrupted goes on from its newest checkpoint, and one that had
    finished returns its result. Same config, data, backbone and machine: same parameters, killed or not.
    """
    use_compilation_cache()
    finished = open_workdir(workdir, config, resume)
    if finished is not None:
        return finished
    with unclaimed_on_error(workdir, resume):
        return _train(config, workdir, resume, start, show)


def _train(config: TrainConfig, workdir: Path, resume: bool, start: Start | None, show: bool) -> TrainResult:
    """The run in a folder that is claimed."""
    costs: dict[str, Cost] = {}
    with window("load") as costs["load"]:
        folder = resolve_backbone(config.backbone)
        backbone = load_backbone(folder, dtype=config.compute_dtype)
    with window("data") as costs["data"]:
        data = load_data(config.data, config.head, backbone, show=show)
        config = replace(config, head=data.head)
    bare = bare_model(config, backbone, data) if config.out_of_scope.false_alarms else None
    aside: Examples | None = None  # rows that nothing is fitted to
    if config.exits.boundaries:
        data, aside = put_aside(config, backbone, data)
    require_dev(config, data)
    rungs: list[dict[str, Any]] = []
    known: dict[str, np.ndarray] = {}  # logits that need not be computed again
    tally = Tally()
    parent = read_parent(start) if start is not None else None
    if parent is not None and aside is not None:
        require_unseen(config, parent.manifest.training.config)
    identity = run_identity(config, backbone, data, parent)
    if parent is None and config.plan.schedule[0] == "auto" and not isinstance(config.adapter, (Probe, Ladder)):
        log.info("rows: %s; %d labels", row_counts(data), len(data.labels))
        with window("climb") as costs["climb"]:
            found = climb(config, workdir, backbone, data.labels, data.splits, identity, show, tally)
        rung, rungs, resumed = found.rung, found.tried, found.resumed
        model, fitted = rung.model, Fitted(rung.params, rung.steps, Progress(stages=rung.stages))
        known = {"dev": rung.logits}
    else:
        if parent is not None:
            model = parent.model(backbone, config, data.labels)
        else:
            model = graft_model(config, backbone, data.labels)
        log.info("%s", describe(model, data))
        run = _Fit(config, workdir, model, backbone, data, identity, costs, tally, show)
        if parent is not None and start is not None:
            fitted, resumed = run.head_only(parent) if start.head_only else run.steps(parent)
        else:
            fitted, resumed = run.probe() if isinstance(config.adapter, Probe) else run.steps(None)

    with window("evaluate") as costs["evaluate"]:
        scores = {
            name: examine(model, fitted.params, backbone, config, data.splits[name], known.get(name))
            for name in held_out(data)
        }
    metrics = {name: score.metrics for name, score in scores.items()}
    graft = Graft(model, fitted.params, backbone, config.data.max_tokens)
    variants: tuple[str, ...] = ()
    if config.validate:
        with window("validate") as costs["validate"]:
            variants = validated(config, folder, graft, data, metrics)
    scope: Scope | None = None
    if bare is not None:
        with window("out_of_scope") as costs["out_of_scope"]:
            run = _Fit(config, workdir, bare, backbone, data, identity, costs, tally, show)
            features = run.bare_features([data.splits[name] for name in ("train", "dev")])
            scope = fitted_scope(config.out_of_scope, bare, features, data)
    exits: Exits | None = None
    if aside is not None:

        def cached(of: GraftModel, splits: Sequence[Examples]) -> list[np.ndarray]:
            return _Fit(config, workdir, of, backbone, data, identity, costs, tally, show).bare_features(splits)

        with window("exits") as costs["exits"]:
            exits = fitted_exits(config, graft, data.splits["train"], aside, cached, tally)
    manifest = save_graft(
        workdir / "graft",
        model,
        fitted.params,
        backbone,
        name=config.name,
        max_tokens=config.data.max_tokens,
        training=Training(
            config={**encode(config), "backbone_path": str(folder.resolve())},
            seeds={"seed": config.seed},
            data=data.fingerprint,
            metrics=metrics,
            costs={name: cost.asdict() for name, cost in costs.items()},
            versions=versions(),
        ),
        scope=scope,
        exits=exits,
        variants=variants,
        replace_existing=resume,
    )
    result = TrainResult(
        graft=str(workdir / "graft"),
        content_id=manifest.content_id,
        metrics=metrics,
        steps=fitted.steps,
        trainable=count(fitted.params),
        seconds=round(wall_seconds(), 3),
        cpu_seconds=round(cpu_seconds(), 3),
        costs={name: cost.asdict() for name, cost in costs.items()},
        resumed=resumed,
        stages=fitted.progress.stages,
        rungs=rungs,
        report=str(workdir / "report.html"),
        exits=None if exits is None else exits.facts(),
        rows_computed=tally.rows + rows_of_steps(config, fitted.progress.stages),
    )
    environment = {"name": config.name, "blocks": backbone.spec.blocks, "backbone": backbone.weights_id, **versions()}
    details = {name: score.details(data.labels) for name, score in scores.items()}
    write_report(workdir, asdict(result), details, environment)
    write_durable(workdir / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def open_workdir(workdir: Path, config: TrainConfig, resume: bool) -> TrainResult | None:
    """Makes the folder, or checks that it holds this config's run; the result if that run had finished."""
    result = claim(workdir, encode(config), resume)
    return None if result is None else stored_result(TrainResult, workdir, result)


def run_identity(
    config: TrainConfig, backbone: Backbone, data: TaskData, parent: Parent | None = None
) -> dict[str, str]:
    """What a checkpoint must agree with to be gone on from."""
    start = {} if parent is None else {"start": parent.manifest.content_id}
    return {
        "config": digest(encode(config)),
        "data": digest(data.fingerprint),
        "weights_id": backbone.weights_id,
        "preprocessing_id": backbone.preprocessing_id,
        **start,
    }


def rows_of_steps(config: TrainConfig, stages: Sequence[Mapping[str, Any]]) -> int:
    """Rows that went through the backbone in training steps, from ids rather than from a cache."""
    return sum(stage["steps"] * config.batch_size for stage in stages if not stage["cached"])


@dataclass(frozen=True)
class _Fit:
    """The ways to parameters; each returns them, and whether the run had been interrupted."""

    config: TrainConfig
    workdir: Path
    model: GraftModel
    backbone: Backbone
    data: TaskData
    identity: Mapping[str, str]
    costs: dict[str, Cost]
    tally: Tally
    show: bool

    @property
    def _train(self) -> Examples:
        return self.data.splits["train"]

    @property
    def _dev(self) -> Examples | None:
        return self.data.splits.get("dev")

    def _untrained(self) -> Params:
        return map_leaves(np.asarray, self.model.init(jax.random.key(self.config.seed)))

    def probe(self) -> tuple[Fitted, bool]:
        """A head on the pooled states of the bare backbone."""
        return self._head(self._untrained())

    def head_only(self, parent: Parent) -> tuple[Fitted, bool]:
        """A head on the features of the parent's adapter."""
        return self._head({**self._untrained(), "adapter": parent.params.get("adapter", {})})

    def _head(self, params: Params) -> tuple[Fitted, bool]:
        with window("probe") as self.costs["probe"]:
            params["head"] = {**params["head"], **self._probe(params, strong=False).head}
        return Fitted(params, 0, Progress()), False

    def bare_features(self, splits: Sequence[Examples]) -> list[np.ndarray]:
        """Features [N,F] of the bare backbone, of the rows of each split."""
        return self._features({}, list(splits), keep=True)

    def steps(self, parent: Parent | None) -> tuple[Fitted, bool]:
        """Gradient steps through the plan's stages, from the parent or from a probe."""
        config, model, backbone = self.config, self.model, self.backbone
        with Checkpoints(self.workdir / "checkpoints", self.identity) as checkpoints:
            resumed = checkpoints.notes() is not None
            with window("probe") as self.costs["probe"]:
                params = self._untrained()
                if parent is not None:
                    params = grown(parent, model, config, backbone, self._train, self.tally)
                elif config.head_start != "zero" and not resumed:
                    params["head"] |= self._probe(params, strong=config.head_start == "shrunk_probe").head
            difficulty = difficulty_of(config, model, backbone, self._train)
            task = Task(config, model, backbone, self._train, self._dev, difficulty)
            with window("train") as self.costs["train"]:
                fitted = fit(
                    task,
                    params,
                    checkpoints,
                    lambda step: Scalars(self.workdir, step),
                    make_cache=cache_maker(config, model, backbone, self.tally),
                    show=self.show,
                )
            return fitted, resumed

    def _probe(self, params: Params, *, strong: bool) -> FittedProbe:
        """The head fitted to the features that the adapter gives; `strong` for one that training starts from."""
        config, train, dev = self.config, self._train, self._dev
        splits = [train, *([dev] if dev is not None and not strong else [])]
        features = self._features(params["adapter"], splits, keep=not strong)
        labels = fitted_labels(self.model, train.labels)
        model, metric = vector_model(self.model, config.metric)
        if strong:
            return FittedProbe(shrunk_head(model, features[0], labels), SHRUNK, {})
        held = (features[1], fitted_labels(self.model, dev.labels)) if dev is not None else None
        fitted = fit_linear(model, features[0], labels, held, metric)
        log.info("probe: l2 %g, development %s by l2 %s", fitted.strength, metric, fitted.scores)
        return fitted

    def _features(self, adapter: Params, splits: list[Examples], *, keep: bool) -> list[np.ndarray]:
        """Features [N,F] of each split; with `keep` through the cache, for the next run on these rows."""
        make = cache_maker(self.config, self.model, self.backbone, self.tally) if keep else None
        if make and (found := head_features(self.model, splits, make(adapter), self.show)):
            return found
        total = sum(map(len, splits))
        self.tally.rows += total
        with bar(total, "features", "row", show=self.show) as shown:
            return [pooled_features(self.model, self.backbone, adapter, split, shown.update) for split in splits]


def cache_maker(
    config: TrainConfig, model: GraftModel, backbone: Backbone, tally: Tally | None = None
) -> MakeCache | None:
    """Opens the boundary cache below a stage, for the adapter that is frozen there; None where there is none."""
    if config.plan.cache == "none":
        return None
    storage, most = config.plan.cache, int(config.plan.cache_gib * 2**30)
    return lambda adapter: Boundaries(model, backbone, adapter, boundaries_folder(), storage, most, tally)


def graft_model(config: TrainConfig, backbone: Backbone, labels: tuple[str, ...]) -> GraftModel:
    """The model of a config. Blocks that are frozen from the first step on get no adapter."""
    methods = config.methods
    name, value = config.plan.schedule
    if name == "top" and not isinstance(config.adapter, (Probe, Ladder)):
        if any(getattr(spec, "blocks", "") for spec in methods):
            raise InputError(
                f"adapter.blocks: plan.stages={config.plan.stages} decides the blocks; leave one of them out"
            )
        first = max(0, backbone.spec.blocks - int(value))
        methods = tuple(above(spec, first, backbone.spec.blocks) for spec in methods)
    return GraftModel(backbone.network, methods, config.head, labels)


def held_out(data: TaskData) -> tuple[str, ...]:
    """The splits that a run is scored on."""
    return tuple(name for name in ("dev", "test") if name in data.splits)


def row_counts(data: TaskData) -> str:
    """Rows of each split, for the log."""
    return ", ".join(f"{name} {len(split)}" for name, split in data.splits.items())


def describe(model: GraftModel, data: TaskData) -> str:
    """One line for the log: rows, labels, sites."""
    sites = sum(len(settings) for _, settings in model.site_parts.values())
    methods = ", ".join(spec.method for spec in model.methods)
    return f"rows: {row_counts(data)}; {len(data.labels)} labels; {methods} at {sites} sites"
