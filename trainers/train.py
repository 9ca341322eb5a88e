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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.exits import Exits
from adapters.artefact.manifest import Manifest, Training
from adapters.artefact.scope import Scope
from adapters.artefact.write import save_graft
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.files import write_durable
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.records import digest, encode
from backbone.storage import Backbone, load_backbone
from backbone.trees import count
from metering.window import Cost, cpu_seconds, wall_seconds, window
from trainers.config import TrainConfig
from trainers.config.load import versions
from trainers.data.batches import Examples
from trainers.data.examples import TaskData, load_data
from trainers.extras.early_exits import fitted_exits, put_aside, require_unseen
from trainers.extras.out_of_scope import bare_model, fitted_scope
from trainers.extras.variants import require_dev, validated
from trainers.fitting.cached_states import ComputedRows
from trainers.fitting.climb import climb, climbs
from trainers.fitting.loop import Fitted
from trainers.fitting.warm_start import Parent, Start, read_parent
from trainers.fitting.ways import Fit
from trainers.inputs import graft_model
from trainers.runs.workdir import RESULT, claimed, stored_result
from trainers.scoring.examine import Examined, examine
from trainers.scoring.report import write_report

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
    skipped: int = 0  # micro-batches whose loss or gradient was not finite


def train(
    config: TrainConfig, workdir: Path, *, resume: bool = False, start: Start | None = None, show: bool = False
) -> TrainResult:
    """Trains and stores a graft in `workdir`; raises InputError for bad data, config or backbone.

    `start` names a graft to begin from: its methods are trained on, in the stages of the plan.
    With `resume` a run that was interrupted goes on from its newest checkpoint, and one that had
    finished returns its result. Same config, data, backbone and machine: same parameters, killed or not.
    """
    use_compilation_cache()
    with claimed(workdir, encode(config), resume) as stored:
        if stored is not None:
            return stored_result(TrainResult, workdir, stored)
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
    parent = read_parent(start) if start is not None else None
    if parent is not None and aside is not None:
        require_unseen(config, parent.manifest.training.config)
    run = _Run(config, workdir, backbone, data, costs, ComputedRows(), show)
    found = run.fitted(parent, start)
    scores = run.scores(found)
    metrics = {name: score.metrics for name, score in scores.items()}
    variants = run.variants(found, folder, metrics) if config.validate else ()
    scope = run.scope(bare, scores["dev"].logits) if bare is not None else None
    exits = run.exits(found, aside) if aside is not None else None
    manifest = save_graft(
        workdir / "graft",
        found.model,
        found.fitted.params,
        backbone,
        name=config.name,
        max_tokens=config.data.max_tokens,
        training=Training(
            config={**encode(config), "backbone_path": str(folder.resolve())},
            seeds={"seed": config.seed},
            data=data.fingerprint,
            metrics=metrics,
            costs=run.told_costs(),
            versions=versions(),
        ),
        scope=scope,
        exits=exits,
        variants=variants,
        replace_existing=resume,
    )
    result = run.result(found, manifest, exits)
    environment = {"name": config.name, "blocks": backbone.spec.blocks, "backbone": backbone.weights_id, **versions()}
    details = {name: score.details(data.labels) for name, score in scores.items()}
    write_report(workdir, asdict(result), details, environment)
    write_durable(workdir / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


@dataclass(frozen=True)
class _Found:
    """What a run came to."""

    model: GraftModel
    fitted: Fitted
    resumed: bool
    rungs: list[dict[str, Any]] = field(default_factory=list)
    known: dict[str, np.ndarray] = field(default_factory=dict)  # logits that need not be computed again


@dataclass(frozen=True)
class _Run:
    """The parts of a run that loaded its backbone and its data."""

    config: TrainConfig
    workdir: Path
    backbone: Backbone
    data: TaskData
    costs: dict[str, Cost]
    tally: ComputedRows
    show: bool

    def fitted(self, parent: Parent | None, start: Start | None) -> _Found:
        """The parameters: climbed to where the plan says auto, else by the config's own way."""
        config, data = self.config, self.data
        identity = run_identity(config, self.backbone, data, parent)
        if parent is None and climbs(config):
            return self._climbed(identity)
        if parent is not None:
            model = parent.model(self.backbone, config, data.labels)
        else:
            model = graft_model(config, self.backbone, data.labels)
        log.info("%s", describe(model, data))
        fit = self._fit(model, identity)
        if parent is not None and start is not None:
            return _Found(model, *(fit.head_only(parent) if start.head_only else fit.steps(parent)))
        return _Found(model, *(fit.probe() if isinstance(config.adapter, Probe) else fit.steps(None)))

    def _climbed(self, identity: Mapping[str, str]) -> _Found:
        data = self.data
        log.info("rows: %s; %d labels", row_counts(data), len(data.labels))
        with window("climb") as self.costs["climb"]:
            found = climb(
                self.config, self.workdir, self.backbone, data.labels, data.splits, identity, self.show, self.tally
            )
        rung = found.rung
        fitted = Fitted(rung.params, rung.steps, rung.progress)
        return _Found(rung.model, fitted, found.resumed, found.tried, {"dev": rung.logits})

    def _fit(self, model: GraftModel, identity: Mapping[str, str]) -> Fit:
        return Fit(
            self.config, self.workdir, model, self.backbone, self.data, identity, self.costs, self.tally, self.show
        )

    def scores(self, found: _Found) -> dict[str, Examined]:
        """Every split that is held out, examined."""
        model, params, splits = found.model, found.fitted.params, self.data.splits
        with window("evaluate") as self.costs["evaluate"]:
            return {
                name: examine(model, params, self.backbone, self.config, splits[name], found.known.get(name))
                for name in held_out(self.data)
            }

    def scope(self, bare: GraftModel, dev_logits: np.ndarray) -> Scope:
        """The out-of-scope score, from features of the bare backbone; `dev_logits` of the trained graft."""
        with window("out_of_scope") as self.costs["out_of_scope"]:
            features = self._fit(bare, {}).bare_features([self.data.splits[name] for name in ("train", "dev")])
            return fitted_scope(self.config.out_of_scope, bare, features, self.data, dev_logits)

    def graft(self, found: _Found) -> Graft:
        """What was fitted, before it is stored."""
        return Graft(found.model, found.fitted.params, self.backbone, self.config.data.max_tokens)

    def variants(self, found: _Found, folder: Path, metrics: dict[str, dict[str, float]]) -> tuple[str, ...]:
        """The lower-precision variants that keep the score; their own go into `metrics`."""
        with window("validate") as self.costs["validate"]:
            return validated(self.config, folder, self.graft(found), self.data, metrics)

    def exits(self, found: _Found, aside: Examples) -> Exits | None:
        """The early exits, certified on the rows `aside`; None where they certify none."""

        def cached(of: GraftModel, splits: Sequence[Examples]) -> list[np.ndarray]:
            return self._fit(of, {}).bare_features(splits)

        train = self.data.splits["train"]
        with window("exits") as self.costs["exits"]:
            return fitted_exits(self.config, self.graft(found), train, aside, cached, self.tally)

    def told_costs(self) -> dict[str, Any]:
        """The costs so far, by phase."""
        return {name: cost.asdict() for name, cost in self.costs.items()}

    def result(self, found: _Found, manifest: Manifest, exits: Exits | None) -> TrainResult:
        """What `--json` prints."""
        return TrainResult(
            graft=str(self.workdir / "graft"),
            content_id=manifest.content_id,
            metrics=manifest.training.metrics,
            steps=found.fitted.steps,
            trainable=count(found.fitted.params),
            seconds=round(wall_seconds(), 3),
            cpu_seconds=round(cpu_seconds(), 3),
            costs=self.told_costs(),
            resumed=found.resumed,
            stages=found.fitted.progress.stages,
            rungs=found.rungs,
            report=str(self.workdir / "report.html"),
            exits=None if exits is None else exits.facts(),
            rows_computed=self.tally.rows,
            skipped=found.fitted.progress.skipped,
        )


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
